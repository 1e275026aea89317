export * from './client.js';
export * from './errors.js';
export { Content, ContentWriter, Subscription } from './stream.js';
export type {
  CallKind,
  TokenSource,
  Transport,
  TransportAnswer,
  TransportCall,
} from './transport.js';
export type * from './types.js';
