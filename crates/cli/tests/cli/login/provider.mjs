// An OpenID provider for the tests: `oidc-provider` with the device flow, users who sign in by their
// name, and calls of the test's own under /test.
//
//   node provider.mjs MODULES
//
// MODULES is the directory in which oidc-provider is installed. The first line of the output is the
// issuer identifier.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const place = join(process.argv[2], 'node_modules/oidc-provider/lib/index.js');
const { Provider, default: Default } = await import(pathToFileURL(place).href);
const Oidc = Default ?? Provider;

let keys = 0;
// Seconds for which a code can be confirmed, and the number of `slow_down` before other answers.
let lifetime = 60;
let slow = 0;

function jwk() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  keys += 1;
  return { ...privateKey.export({ format: 'jwk' }), kid: `key-${keys}`, use: 'sig', alg: 'RS256' };
}

function make(issuer) {
  const provider = new Oidc(issuer, {
    clients: [
      {
        client_id: 'vfs-sync',
        token_endpoint_auth_method: 'none',
        application_type: 'native',
        grant_types: ['urn:ietf:params:oauth:grant-type:device_code'],
        response_types: [],
        redirect_uris: [],
      },
    ],
    features: { deviceFlow: { enabled: true }, devInteractions: { enabled: true } },
    jwks: { keys: [jwk()] },
    cookies: { keys: ['of the tests'] },
    ttl: { DeviceCode: () => lifetime, AccessToken: 600, IdToken: 600, Session: 600, Grant: 600, Interaction: 600 },
    findAccount: (_, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  });
  provider.use(async (ctx, next) => {
    if (ctx.path === '/token' && slow > 0) {
      slow -= 1;
      ctx.status = 400;
      ctx.body = { error: 'slow_down' };
      return;
    }
    await next();
    // The pause between two questions: the usual one takes too long for a test.
    if (ctx.body?.device_code) ctx.body = { ...ctx.body, interval: 1 };
  });
  return provider.callback();
}

let answer;
const server = createServer((request, response) => {
  const url = new URL(request.url, 'http://127.0.0.1');
  if (!url.pathname.startsWith('/test/')) return answer(request, response);
  if (url.pathname === '/test/rotate') answer = make(issuer());
  if (url.pathname === '/test/lifetime') lifetime = Number(url.search.slice(1));
  if (url.pathname === '/test/slow') slow = Number(url.search.slice(1));
  return response.end();
});
const issuer = () => `http://127.0.0.1:${server.address().port}`;
server.listen(0, '127.0.0.1', () => {
  answer = make(issuer());
  console.log(issuer());
});
// It ends with the test.
process.stdin.on('end', () => process.exit()).resume();
