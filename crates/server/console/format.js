// Numbers, sizes and times, for people.

import { h } from './dom.js';

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

export function bytes(value) {
  let [number, unit] = [value, 0];
  while (number >= 1024 && unit + 1 < UNITS.length) [number, unit] = [number / 1024, unit + 1];
  return `${unit === 0 || number >= 100 ? Math.round(number) : number.toFixed(1)} ${UNITS[unit]}`;
}

export function count(value) {
  return value === null || value === undefined ? '–' : Math.round(value).toLocaleString('en');
}

export function rate(value) {
  return value >= 100 ? count(value) : value.toFixed(value >= 10 ? 0 : 1);
}

export function percent(part) {
  const value = part * 100;
  return `${value > 0 && value < 0.01 ? '<0.01' : value.toFixed(value >= 10 ? 0 : value >= 1 ? 1 : 2)} %`;
}

export function seconds(value) {
  if (value === null || value === undefined) return '–';
  if (value < 1) return `${value === 0 ? 0 : Math.max(1, Math.round(value * 1000))} ms`;
  return value < 10 ? `${value.toFixed(1)} s` : duration(value);
}

export function duration(value) {
  const all = Math.max(0, Math.round(value));
  if (all < 120) return `${all} s`;
  if (all < 7200) return `${Math.round(all / 60)} min`;
  if (all < 172800) return `${Math.round(all / 3600)} h`;
  return `${Math.round(all / 86400)} d`;
}

/** The time by which the server's clock is ahead of this machine's, in milliseconds. */
let ahead = 0;

export function setClock(serverTime) {
  ahead = Date.parse(serverTime) - Date.now();
}

export function now() {
  return Date.now() + ahead;
}

function relative(at) {
  const off = (now() - Date.parse(at)) / 1000;
  return off >= 0 ? `${duration(off)} ago` : `in ${duration(-off)}`;
}

/** Shows how long ago a time was, and goes on doing so. */
export function ago(at) {
  return at ? h('time', { datetime: at, title: at, 'data-ago': true }, relative(at)) : '–';
}

/** Keeps what `ago` shows true. */
export function keepTimes() {
  setInterval(() => {
    for (const one of document.querySelectorAll('time[data-ago]')) {
      const text = relative(one.getAttribute('datetime'));
      if (one.textContent !== text) one.textContent = text;
    }
  }, 1000);
}
