import { join } from 'node:path';
import { provide, type Native } from './native.js';

const addon = require(join(__dirname, '..', 'vfs-sync.node')) as Native;
provide(async () => addon);

export * from './client.js';
export * from './errors.js';
export { Content, ContentWriter, Subscription, type Bytes } from './stream.js';
export type {
  CallKind,
  TokenSource,
  Transport,
  TransportAnswer,
  TransportCall,
} from './transport.js';
export type * from './types.js';
