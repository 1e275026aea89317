// What was found for an id, a pseudonym, a name of a device, or a signature.

import { button, facts, h, id, named, plain, replace } from '../dom.js';
import { get, step } from '../api.js';
import { ago, bytes, count } from '../format.js';
import { devicesTable } from './devices.js';
import { entry } from './problem.js';

function link(kind, text) {
  return h('a', { href: `#/search/${encodeURIComponent(text)}` }, id(text), kind);
}

async function itemCard(itemId) {
  const item = await get(`/items/${step(itemId)}`);
  const name = h('span', {}, button('Show the name', async () => {
    const shown = await get(`/items/${step(itemId)}/name`);
    replace(name, shown.name === null ? 'encrypted, or removed for good' : named(shown.name));
  }), ' ', h('span', { class: 'hint' }, 'is written to the audit log'));
  return h('section', { class: 'card' }, h('h2', {}, 'Item ', id(item.itemId)), facts([
    ['Name', name],
    ['Owner', h('a', { href: `#/users/${encodeURIComponent(item.owner)}` }, named(item.owner))],
    ['Type', item.objectType ?? '–'],
    ['State', item.purged ? 'removed for good' : item.deleted ? 'in the trash' : 'present'],
    ['Encrypted', item.encrypted ? 'yes' : 'no'],
    ['Created', ago(item.createdAt)],
    ['Hangs under', item.parents.length === 0 ? 'nothing' : item.parents.map((one) => [link('', one), ' '])],
    ['Grants', count(item.grants)],
    ['Contents', item.attachments.length === 0 ? 'none' : item.attachments.map((one) => [link('', one.blobId), ` ${plain(one.relationKind)}, ${bytes(one.size)} `])],
  ]));
}

async function blobCard(blobId) {
  const blob = await get(`/blobs/${step(blobId)}`);
  const there = blob.object.present;
  return h('section', { class: 'card' }, h('h2', {}, 'Blob ', id(blob.blobId)), facts([
    ['Owner', h('a', { href: `#/users/${encodeURIComponent(blob.owner)}` }, named(blob.owner))],
    ['Row', blob.blobStatus],
    ['Object', there === true ? 'is there' : h('span', { class: 'over' }, there === false ? 'is missing' : `the store failed: ${plain(blob.object.storageCode)}`)],
    ['Size', blob.stage.size === undefined ? 'no bytes yet' : bytes(blob.stage.size)],
    ['Stage', link('', blob.stage.stagingId)],
    ['Attached to', blob.attachments.length === 0 ? 'nothing' : blob.attachments.map((one) => [link('', one.itemId), ' '])],
  ]));
}

async function stageCard(stagingId) {
  const { stage, owner, expired, upload } = await get(`/stages/${step(stagingId)}`);
  return h('section', { class: 'card' }, h('h2', {}, 'Stage ', id(stage.stagingId)), facts([
    ['Owner', h('a', { href: `#/users/${encodeURIComponent(owner)}` }, named(owner))],
    ['State', `${stage.status.replace('blob-stage:', '')}${expired ? ', expired' : ''}`],
    ['Blob', link('', stage.blobId)],
    ['Bytes', stage.size !== undefined ? bytes(stage.size) : upload ? `${bytes(upload.offset)} received` : 'none yet'],
    ['Opened', ago(stage.stagedAt)],
    ['Expires', ago(stage.expiresAt)],
  ]));
}

export async function search(main, text) {
  const found = await get(`/search?q=${encodeURIComponent(text)}`);
  const cards = await Promise.all([
    found.item ? itemCard(found.item.itemId) : null,
    found.blob ? blobCard(found.blob.blobId) : null,
    found.stage ? stageCard(found.stage.stagingId) : null,
  ]);
  const again = () => search(main, text);
  const nothing = !found.user && found.devices.length === 0 && found.entries.length === 0 && cards.every((one) => one === null);
  replace(main,
    h('h1', { tabindex: '-1' }, 'Search for ', named(text)),
    nothing ? h('p', {}, 'Nothing has this id or name. Users, items, blobs and stages are found by their whole id, users also by the pseudonym of a log, devices that called within 7 days by a part of their name too, and the runbook by signatures, codes and statuses.') : null,
    found.user ? h('section', { class: 'card' }, h('h2', {}, 'User'), h('p', {}, h('a', { href: `#/users/${encodeURIComponent(found.user.userId)}` }, named(found.user.userId)), ' · in logs ', id(found.user.pseudonym))) : null,
    cards,
    found.devices.length > 0 ? devicesTable('Devices', found.devices, again) : null,
    found.entries.map((one) => h('section', { class: 'card' }, h('h2', {}, `Runbook: ${one.key}`), entry(one))));
}
