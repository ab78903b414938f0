// @ts-check
// A paragraph whose value is text, never markup.
import { $, onValue } from './dom.js';

onValue(() => { $('p').textContent = props.value || ''; });
