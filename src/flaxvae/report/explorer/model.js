// The model of a page: its weights unpacked, and its engine in a worker, or here where there can be
// none.

const unpacked = async () => {
  const source = document.getElementById("explorer-data");
  const bytes = flaxvaeEngine().ofText(source.textContent);
  source.remove(); // the text is no longer needed
  if (!globalThis.DecompressionStream) throw new Error("this browser has no DecompressionStream; a newer one does");
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

// The worker starts while the weights are unpacked.
const hosted = (packed, unpacking) => new Promise((resolve, refuse) => {
  const here = async () => {
    const engine = flaxvaeEngine().load(packed, await unpacking);
    resolve(async (name, inputs) => engine.run(name, inputs));
  };
  let worker;
  try {
    const program = new Blob([`${flaxvaeProduct}; (${flaxvaeEngine})().serve(self)`], { type: "text/javascript" });
    worker = new Worker(URL.createObjectURL(program));
  } catch {
    here().catch(refuse);
    return;
  }
  const waiting = new Map();
  let count = 0;
  const run = (name, inputs) => new Promise((done, failed) => {
    waiting.set(++count, [done, failed]);
    worker.postMessage({ id: count, name, inputs });
  });
  worker.onerror = (event) => { event.preventDefault(); worker.terminate(); here().catch(refuse); };
  worker.onmessage = ({ data }) => {
    if (data.id === 0) {
      worker.onerror = null;
      if (data.error) refuse(new Error(data.error)); else resolve(run);
      return;
    }
    const [done, failed] = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.error) failed(new Error(data.error)); else done(data.outputs);
  };
  unpacking.then((bytes) => worker.postMessage({ id: 0, load: packed, bytes }), () => {});
});
