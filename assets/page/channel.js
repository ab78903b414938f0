// @ts-check
// Runs before anything else of the page. A browser has six connections to a host, for all its tabs together; gradio's
// page would hold one for as long as it is open, and one more while anything runs. So only a few tabs may hold one, for
// what runs; the others ask every moment for what is new, and none holds one for its heartbeat. The other half is
// dspark_core/playground/channel.py.

const HEARTBEAT = '/gradio_api/heartbeat/', EVENTS = '/gradio_api/queue/data';
const MAX_HELD = 3;
const HEARTBEAT_MS = 45_000, HIDDEN_MS = 1000, SLOWEST_MS = 400, FASTEST_MS = 60;

const fetched = window.fetch.bind(window);
/** @param {number} ms */
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

/**
 * Take one of the connections that may be held. Resolves to what gives it back, or to null if there is none left. The
 * browser itself gives back those of a tab that was closed.
 * @returns {Promise<(() => void)?>}
 */
async function connection() {
  for (let k = 0; navigator.locks && k < MAX_HELD; k++) {
    const free = await new Promise((resolve) => {
      navigator.locks.request('dspark-connection-' + k, { ifAvailable: true },
        (lock) => lock ? new Promise((done) => { resolve(done); }) : resolve(null));
    });
    if (free) return free;
  }
  return null;
}

/**
 * The same answer, which gives back its connection at its end.
 * @param {Response} response
 * @param {() => void} free
 */
function held(response, free) {
  const { readable, writable } = new TransformStream();
  if (response.body) response.body.pipeTo(writable).catch(() => {}).finally(free);
  else free();
  return new Response(readable, response);
}

/**
 * The answer to a request for a stream, put together from many short ones.
 * @param {string} url
 * @param {AbortSignal?} signal
 * @param {number} [every]  ms from one to the next; else as fast as there is something new
 */
function polled(url, signal, every) {
  const name = Math.random().toString(36).slice(2);
  /** @param {string} [wish] */
  const ask = (wish = '') => fetched(url, { headers: { 'x-stream': name + wish }, keepalive: Boolean(wish) });
  const leave = () => { ask(' leave').catch(() => {}); };
  const over = () => removeEventListener('pagehide', leave);
  let ms = FASTEST_MS, first = true;
  /** @param {ReadableStreamDefaultController} controller */
  async function pull(controller) {
    for (;;) {
      if (!first) await pause(every ?? (document.hidden ? HIDDEN_MS : ms));
      first = false;
      if (signal?.aborted) return;
      const answer = await ask(), data = new Uint8Array(await answer.arrayBuffer());
      if (!answer.ok) throw new TypeError('The page’s server answers with ' + answer.status + '.');
      ms = data.length ? FASTEST_MS : Math.min(1.5 * ms, SLOWEST_MS);
      if (data.length && !signal?.aborted) controller.enqueue(data);
      if (answer.headers.has('x-stream-over')) {
        over();
        return controller.close();
      }
      if (data.length) return;
    }
  }
  const body = new ReadableStream({
    start(controller) {
      signal?.addEventListener('abort', () => {
        over();
        leave();
        controller.error(signal.reason);
      });
    },
    pull,
  });
  addEventListener('pagehide', leave);
  return new Response(body, { headers: { 'content-type': 'text/event-stream' } });
}

window.fetch = async (input, init) => {
  const url = input instanceof Request ? input.url : String(input);
  const { pathname } = new URL(url, location.href);
  const signal = init?.signal ?? (input instanceof Request ? input.signal : null);
  if (pathname.startsWith(HEARTBEAT)) return polled(url, signal, HEARTBEAT_MS);
  if (pathname !== EVENTS) return fetched(input, init);
  const free = await connection();
  if (!free) return polled(url, signal);
  try {
    return held(await fetched(input, init), free);
  } catch (error) {
    free();
    throw error;
  }
};
