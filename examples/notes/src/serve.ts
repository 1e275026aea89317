// Serves the page, and the package that it imports, on PORT or 8080.
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOTS: Record<string, URL> = {
  '/': new URL('../../web/', import.meta.url),
  '/page/': new URL('../page/', import.meta.url),
  '/client/': new URL('../../node_modules/@vfs-sync/browser/dist/', import.meta.url),
};
const TYPES: Record<string, string> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.wasm': 'application/wasm',
};

export async function serve(port: number, roots = ROOTS): Promise<Server> {
  const server = createServer(async (request, response) => {
    // The parser of URLs takes steps up out of the path.
    const { pathname } = new URL(request.url ?? '/', 'http://page');
    const [prefix, root] = Object.entries(roots).findLast(([prefix]) => pathname.startsWith(prefix))!;
    const file = new URL(`./${pathname.slice(prefix.length) || 'index.html'}`, root);
    try {
      if (!file.href.startsWith(root.href)) throw new Error('outside');
      const bytes = await readFile(file);
      response.setHeader('content-type', TYPES[extname(file.pathname)] ?? 'application/octet-stream');
      response.end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  return server;
}

/** The address of a server of pages. */
export function originOf(server: Server): string {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the server does not listen');
  return `http://127.0.0.1:${address.port}`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  console.log(originOf(await serve(Number(process.env['PORT'] ?? 8080))));
}
