// A program as users of Node write it, with fetch alone: signs in, infers in JSON and in binary, and signs in again when its token is
// refused. The environment says what to call: FRONT, MODEL, CLIENT_ID, CLIENT_SECRET; NODE_EXTRA_CA_CERTS is Node's own. The rows come as
// standard input, and the answers go to standard output.
import { text } from "node:stream/consumers";

const { FRONT, MODEL, CLIENT_ID, CLIENT_SECRET } = process.env;
const rows = JSON.parse(await text(process.stdin));
const shape = [rows.length, rows[0].length];
const infer = `${FRONT}/v2/models/${MODEL}/infer`;
let logins = 0;
let token = await signIn();

async function signIn() {
  logins += 1;
  const response = await fetch(`${FRONT}/api/auth/token`, {
    method: "POST",
    headers: { authorization: `Basic ${btoa(`${CLIENT_ID}:${CLIENT_SECRET}`)}` },
    body: new URLSearchParams({ grant_type: "client_credentials" }),
  });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  return (await response.json()).access_token;
}

async function call(url, options = {}) {
  const send = () => fetch(url, { ...options, headers: { ...options.headers, authorization: `Bearer ${token}` } });
  let response = await send();
  if (response.status === 401) {
    await response.text();
    token = await signIn();
    response = await send();
  }
  return response;
}

async function inferJson(values) {
  const request = { inputs: [{ name: "input", datatype: "FP32", shape: [values.length, values[0].length], data: values }] };
  return call(infer, { method: "POST", body: JSON.stringify(request) });
}

async function inferBinary() {
  const values = new Float32Array(rows.flat());
  const head = JSON.stringify({
    inputs: [{ name: "input", datatype: "FP32", shape, parameters: { binary_data_size: values.byteLength } }],
    outputs: [{ name: "probabilities", parameters: { binary_data: true } }],
  });
  const response = await call(infer, {
    method: "POST",
    headers: { "inference-header-content-length": String(Buffer.byteLength(head)) },
    body: new Blob([head, values]),
  });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  const length = Number(response.headers.get("inference-header-content-length"));
  const bytes = await response.arrayBuffer();
  const [output] = JSON.parse(Buffer.from(bytes, 0, length).toString()).outputs;
  // A copy: the values need not begin at a multiple of four.
  return { shape: output.shape, data: Array.from(new Float32Array(bytes.slice(length))) };
}

const models = await (await call(`${FRONT}/v2/repository/index`, { method: "POST" })).json();
const json = await (await inferJson(rows)).json();
const binary = await inferBinary();

const revoked = await call(`${FRONT}/api/auth/revoke`, { method: "POST", body: new URLSearchParams({ token }) });
if (!revoked.ok) throw new Error(`${revoked.status} ${await revoked.text()}`);
// The balancers learn of it a moment later; a call is answered in either case.
while (logins === 1) await (await call(`${FRONT}/v2`)).text();
const again = await (await inferJson(rows)).json();

const narrow = await inferJson(rows.map((row) => row.slice(1)));
const refusal = { status: narrow.status, ...(await narrow.json()) };
console.log(JSON.stringify({ models, json, binary, again, refusal, logins }));
