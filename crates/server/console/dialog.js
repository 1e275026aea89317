// Dialogs: a question before something is done, and details of something.

import { h, replace } from './dom.js';
import { Refusal, explain } from './api.js';

const dialog = document.getElementById('dialog');

/** What had the focus before the dialog. */
let before = null;

dialog.addEventListener('close', () => {
  // The event comes late: another dialog may be open by now.
  if (dialog.open) return;
  replace(dialog);
  if (before?.isConnected) before.focus();
  else document.getElementById('main').focus();
});

function open(title, children) {
  before = document.activeElement;
  replace(dialog, h('h1', { id: 'dialog-title' }, title), ...children);
  dialog.setAttribute('aria-labelledby', 'dialog-title');
  dialog.showModal();
}

/** Shows something until it is closed. */
export function show(title, ...children) {
  const close = h('button', { type: 'button', class: 'main', onclick: () => dialog.close() }, 'Close');
  open(title, [...children, h('p', { class: 'choices' }, close)]);
  close.focus();
}

/**
 * Asks before `work` is done. `fields` are labelled inputs `{ name, label, value, hint, type }`; with
 * `typed`, that text has to be typed first. Closes once the work is done; says why if it fails.
 */
export function ask({ title, text, action, danger = true, fields = [], typed, work }) {
  const error = h('p', { class: 'error', role: 'alert' });
  const cancel = h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel');
  const go = h('button', { type: 'submit', class: danger ? 'danger' : 'main' }, action);
  const all = typed === undefined ? fields : [...fields, { name: 'typed', label: `Type ${typed} to confirm` }];
  const inputs = all.map((field) => {
    const hint = field.hint ? h('span', { class: 'hint', id: `hint-${field.name}` }, field.hint) : null;
    return h('p', { class: 'field' },
      h('label', { for: `field-${field.name}` }, field.label),
      h('input', { id: `field-${field.name}`, name: field.name, type: field.type ?? 'text', value: field.value,
        autocomplete: 'off', spellcheck: 'false', 'aria-describedby': hint ? hint.id : null, maxlength: 256 }),
      hint);
  });
  const form = h('form', { onsubmit: async (event) => {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(form));
    error.textContent = '';
    if (typed !== undefined && values.typed !== typed) {
      error.textContent = 'What was typed is another text: nothing was done.';
      return;
    }
    go.disabled = true;
    try {
      await work(values);
      dialog.close();
    } catch (problem) {
      error.textContent = problem instanceof Refusal ? explain(problem) : problem.message;
    } finally {
      go.disabled = false;
    }
  } }, h('p', {}, text), inputs, error, h('p', { class: 'choices' }, cancel, go));
  open(title, [form]);
  // What does no harm comes first.
  (form.querySelector('input') ?? cancel).focus();
}
