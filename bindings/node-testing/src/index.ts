export { cursor, itemEntry, page, type FeedEntry, type Page } from './build.js';
export { FaultyTransport, type Fault } from './faulty.js';
export { allResults, ScriptedTransport, Status, type Answer, type RecordedCall } from './scripted.js';
export { TestServer } from './server.js';
export * from './violations.js';
