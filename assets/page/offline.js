// @ts-check
// Begins a saved page, before the board's script: that one asks for what gradio would give it, its element, its value
// and to be told of changes. The race stands on the page as JSON: {records, words: {selector: text}}.

const data = JSON.parse(document.getElementById('race')?.textContent ?? '');
for (const [selector, text] of Object.entries(data.words)) {
  const place = document.querySelector(selector);
  if (place) place.textContent = text;
}
document.title = data.words.h1;
const hint = document.querySelector('.board-details');  // no inspector is here
if (hint) hint.textContent = (hint.textContent ?? '').replace(/ Click it .*/, '');
if (matchMedia('(prefers-color-scheme: dark)').matches) document.body.classList.add('dark');

export const element = document.getElementById('board'), props = { value: data.records };
export const watch = () => {}, trigger = () => {};
