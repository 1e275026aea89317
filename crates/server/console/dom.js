// Elements made of values: text goes into text nodes alone, so nothing that a client says is markup.

const SVG = 'http://www.w3.org/2000/svg';

// Characters that are not seen, or that turn the direction of what follows.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** Returns a text with the characters that hide something written out. */
export function plain(text) {
  return String(text).replace(HIDDEN, (one) => `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}⟩`);
}

function put(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else element.setAttribute(name, String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

/** Makes an element with attributes, listeners (`onclick`) and children: elements or texts. */
export function h(name, properties, ...children) {
  return put(document.createElement(name), properties, children);
}

/** Makes an element of SVG. */
export function svg(name, properties, ...children) {
  return put(document.createElementNS(SVG, name), properties, children);
}

/** Shows what somebody else named: isolated from the text around it, with nothing hidden. */
export function named(text, kind = '') {
  return h('bdi', { class: `named ${kind}`.trim(), title: plain(text) }, plain(text));
}

/** Shows an id. */
export function id(text) {
  return named(text, 'id');
}

export function replace(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

/** Sets a text if it is another one: whoever listens to a live region hears changes alone. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Shows a list in `parent`, by the elements that `make` returns for each value. An element stays while
 * its value is the same, with its focus and what is open in it.
 */
export function keyed(parent, values, key, make) {
  const known = parent.known ?? new Map();
  const next = new Map();
  for (const value of values) {
    const name = key(value);
    const text = JSON.stringify(value);
    const before = known.get(name);
    if (before?.text === text) {
      next.set(name, before);
      continue;
    }
    const element = make(value);
    const open = before?.element.querySelector('details')?.open;
    const details = element.querySelector('details');
    if (open && details) details.open = true;
    next.set(name, { text, element });
  }
  const held = document.activeElement;
  const elements = [...next.values()].map((one) => one.element);
  const same = elements.length === parent.children.length && elements.every((one, at) => parent.children[at] === one);
  if (!same) {
    parent.replaceChildren(...elements);
    if (held && parent.contains(held)) held.focus({ preventScroll: true });
  }
  parent.known = next;
}

/** Makes a table with a caption and columns `{ title, show, kind }`; rows are values. */
export function table(caption, columns, rows, empty) {
  const body = h('tbody');
  const made = h('div', { class: 'rows' },
    h('table', {},
      h('caption', {}, caption),
      h('thead', {}, h('tr', {}, columns.map((one) => h('th', { scope: 'col', class: one.kind }, one.title)))),
      body),
    h('p', { class: 'empty' }, empty));
  made.add = (more) => {
    for (const row of more) {
      body.append(h('tr', {}, columns.map((one, at) => {
        const cell = one.show(row);
        return at === 0
          ? h('th', { scope: 'row', class: one.kind, 'data-title': one.title }, cell)
          : h('td', { class: one.kind, 'data-title': one.title }, cell);
      })));
    }
    made.lastChild.hidden = body.children.length > 0;
    made.firstChild.hidden = body.children.length === 0;
  };
  made.add(rows);
  return made;
}

/** Makes a list of terms and what they are. */
export function facts(pairs) {
  return h('dl', { class: 'facts' }, pairs.filter(([, value]) => value !== undefined && value !== null)
    .map(([term, value]) => h('div', {}, h('dt', {}, term), h('dd', {}, value))));
}

/** Makes a button that is busy while its work runs; a failure is the event `refused`. */
export function button(text, work, kind = '') {
  const made = h('button', { type: 'button', class: kind, onclick: async () => {
    made.disabled = true;
    try {
      await work();
    } catch (refusal) {
      made.dispatchEvent(new CustomEvent('refused', { bubbles: true, detail: refusal }));
    } finally {
      made.disabled = false;
    }
  } }, text);
  return made;
}
