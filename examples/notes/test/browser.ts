// A headless Chromium, by the WebDriver protocol.
import { spawn, type ChildProcess } from 'node:child_process';
import { setTimeout as pause } from 'node:timers/promises';

/** Calls until the result is not null, for at most 30 seconds. */
export async function until<T>(what: string, call: () => Promise<T | null> | T | null): Promise<T> {
  const end = Date.now() + 30_000;
  for (;;) {
    const found = await call();
    if (found !== null) return found;
    if (Date.now() > end) throw new Error(`in vain: ${what}`);
    await pause(20);
  }
}

export class Browser implements AsyncDisposable {
  readonly #driver: ChildProcess;
  readonly #session: string;

  private constructor(driver: ChildProcess, session: string) {
    this.#driver = driver;
    this.#session = session;
  }

  static async start(): Promise<Browser> {
    const driver = spawn('chromedriver', ['--port=0'], { stdio: ['ignore', 'pipe', 'ignore'] });
    let said = '';
    driver.stdout!.on('data', (text: Buffer) => (said += String(text)));
    const port = await until('a port of chromedriver', () => /on port (\d+)\./.exec(said)?.[1] ?? null);
    const args = ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'];
    const chrome = { args, ...(process.env['CHROMIUM'] ? { binary: process.env['CHROMIUM'] } : {}) };
    const base = `http://127.0.0.1:${port}/session`;
    // Prompts are left open, so that a test can see them.
    const wanted = { 'goog:chromeOptions': chrome, unhandledPromptBehavior: 'ignore' };
    const answer = await fetch(base, {
      method: 'POST',
      body: JSON.stringify({ capabilities: { alwaysMatch: wanted } }),
    });
    const { value } = (await answer.json()) as { value: { sessionId?: string } };
    if (value.sessionId === undefined) throw new Error(`no browser: ${JSON.stringify(value)}`);
    return new Browser(driver, `${base}/${value.sessionId}`);
  }

  async #call(command: string, body: unknown): Promise<any> {
    const answer = await fetch(`${this.#session}/${command}`, { method: 'POST', body: JSON.stringify(body) });
    const { value } = (await answer.json()) as { value: any };
    if (!answer.ok) throw new Error(`${command}: ${value?.message}`);
    return value;
  }

  async open(url: string): Promise<void> {
    await this.#call('url', { url });
  }

  /** Runs the body of a function in the page. */
  async run<T>(script: string, ...args: unknown[]): Promise<T> {
    return this.#call('execute/sync', { script, args });
  }

  /** Types into the field that a selector finds, as a user does; for files, it chooses one. */
  async type(selector: string, text: string): Promise<void> {
    const found = await this.#call('element', { using: 'css selector', value: selector });
    const [element] = Object.values(found as Record<string, string>);
    await this.#call(`element/${element}/value`, { text });
  }

  async click(selector: string): Promise<void> {
    const found = await this.#call('element', { using: 'css selector', value: selector });
    const [element] = Object.values(found as Record<string, string>);
    await this.#call(`element/${element}/click`, {});
  }

  /** Cuts the page off the network, or connects it again. */
  async offline(offline: boolean): Promise<void> {
    const conditions = { offline, latency: 0, downloadThroughput: -1, uploadThroughput: -1 };
    await this.#call('goog/cdp/execute', { cmd: 'Network.enable', params: {} });
    await this.#call('goog/cdp/execute', { cmd: 'Network.emulateNetworkConditions', params: conditions });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await fetch(this.#session, { method: 'DELETE' }).catch(() => undefined);
    this.#driver.kill();
  }
}
