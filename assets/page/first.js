// @ts-check
// The first picture: a recorded race on a board that stands in the HTML that is served, before gradio's scripts run.
// The board's script asks for what gradio would give it: its element, its value and to be told of changes. Where the
// page has made its own board, recorded.js takes this one away.

export const element = document.getElementById('first-board'), props = { value: null };
export const watch = () => {}, trigger = () => {};

const dark = matchMedia('(prefers-color-scheme: dark)').matches;
if (dark) document.body.classList.add('dark');
