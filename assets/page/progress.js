// @ts-check
// A line of words with a bar while there is something to wait for. The value is JSON: {share, words}.
import { $, onValue, parsed } from './dom.js';

onValue(() => {
  const { share, words } = parsed({ share: 0, words: '' });
  $('p').textContent = words;
  $('.bar').hidden = !words || share >= 1;
  $('i').style.width = (100 * share) + '%';
});
