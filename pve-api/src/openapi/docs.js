// Shows /openapi.json, and sends requests as they are typed. Everything from the document is put in as
// text, never as HTML.
'use strict';

const METHODS = ['get', 'post', 'put', 'patch', 'delete', 'head', 'options'];
let document_;

function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function resolve(node) {
  while (node && node.$ref) {
    node = node.$ref.slice(2).split('/').reduce((at, part) => at[part.replaceAll('~1', '/')], document_);
  }
  return node ?? {};
}

function typeOf(schema) {
  schema = resolve(schema);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((it) => JSON.stringify(it)).join(' | ');
  const some = schema.anyOf ?? schema.oneOf;
  if (some) return some.map(typeOf).join(' | ');
  if (schema.type === 'array') return typeOf(schema.items) + '[]';
  const type = [].concat(schema.type ?? 'any').join(' | ');
  return schema.format && schema.format !== 'int64' && schema.format !== 'int32' ? `${type} (${schema.format})` : type;
}

// The fields of a schema, those of objects within it indented.
function rows(schema, depth = 0, seen = []) {
  schema = resolve(schema);
  const within = schema.anyOf?.map(resolve).find((it) => it.type !== 'null') ?? schema;
  const object = within.type === 'array' ? resolve(within.items) : within;
  if (!object.properties || seen.includes(object) || depth > 5) return [];
  return Object.entries(object.properties).flatMap(([name, field]) => {
    const required = object.required?.includes(name) ?? false;
    const row = el('tr', {},
      el('td', {}, el('code', {}, '\u2003'.repeat(depth) + name + (required ? '' : '?'))),
      el('td', { class: 'type' }, typeOf(field)),
      el('td', {}, field.description ?? resolve(field).description ?? ''));
    return [row, ...rows(field, depth + 1, [...seen, object])];
  });
}

function fields(title, schema) {
  const all = rows(schema);
  if (all.length === 0) return null;
  return el('details', {}, el('summary', {}, title), el('div', { class: 'body' }, el('table', {}, ...all)));
}

function example(title, value) {
  if (value === undefined) return null;
  const text = typeof value === 'string' ? value : JSON.stringify(value, null, 2);
  return el('div', {}, el('p', { class: 'hint' }, title), el('pre', {}, text));
}

async function send(method, path, operation, inputs, bodyInput, shown) {
  let url = path;
  const query = new URLSearchParams();
  const headers = {};
  for (const [parameter, input] of inputs) {
    if (input.value === '') continue;
    if (parameter.in === 'path') url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (parameter.in === 'query') query.append(parameter.name, input.value);
    else headers[parameter.name] = input.value;
  }
  const token = document.getElementById('token').value.trim();
  if (token) headers.authorization = `Bearer ${token}`;
  const options = { method: method.toUpperCase(), headers };
  if (bodyInput && bodyInput.value !== '') {
    options.body = bodyInput.value;
    headers['content-type'] = 'application/json';
  }
  const target = query.size ? `${url}?${query}` : url;
  shown.textContent = `${options.method} ${target} …`;
  try {
    const answer = await fetch(target, options);
    let text = await answer.text();
    try { text = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: as it is */ }
    shown.textContent = `${answer.status} ${answer.statusText}\n${text}`;
  } catch (error) {
    shown.textContent = `no answer: ${error.message}`;
  }
}

function show(path, method, operation) {
  const inputs = [];
  const parameters = operation.parameters.map((parameter) => {
    const input = el('input', { class: 'value', 'aria-label': parameter.name, placeholder: parameter.schema.default ?? '' });
    inputs.push([parameter, input]);
    return el('tr', {},
      el('td', {}, el('code', {}, parameter.name + (parameter.required ? '' : '?'))),
      el('td', { class: 'type' }, typeOf(parameter.schema)),
      el('td', {}, parameter.description), el('td', {}, input));
  });
  const content = operation.requestBody?.content ?? {};
  const json = content['application/json'];
  const form = content['multipart/form-data'];
  const bodyInput = json ? el('textarea', { 'aria-label': 'body', spellcheck: 'false' }) : null;
  if (json?.example) bodyInput.value = JSON.stringify(json.example, null, 2);
  const answer = Object.entries(operation.responses).find(([status]) => status.startsWith('2'));
  const answered = answer?.[1].content?.['application/json'];
  const refusals = Object.entries(operation.responses).filter(([status]) => !status.startsWith('2'))
    .map(([status, response]) => el('tr', {}, el('td', {}, status), el('td', {}, resolve(response).description)));
  const shown = el('pre', { 'aria-live': 'polite' });
  const scope = operation.security?.[0]?.token?.[0] ?? 'no token';
  return el('details', { id: operation.operationId, 'data-text': `${path} ${operation.summary}`.toLowerCase() },
    el('summary', {}, el('span', { class: `method ${method}` }, method.toUpperCase()), el('code', {}, path),
      el('span', { class: 'says' }, operation.summary), el('span', { class: 'scope' }, scope)),
    el('div', { class: 'body' },
      el('p', {}, operation.description ?? ''),
      parameters.length ? el('table', {}, ...parameters) : null,
      bodyInput,
      json ? fields('Fields of the body', json.schema) : null,
      form ? fields('Fields of the form (send it with curl -F)', form.schema) : null,
      form ? null : el('button', { onclick: () => send(method, path, operation, inputs, bodyInput, shown) }, 'Send'),
      form ? null : shown,
      answered ? fields('Fields of the answer', resolve(answered.schema).properties?.data ?? answered.schema) : null,
      answered ? example('An answer', answered.example) : null,
      el('details', {}, el('summary', {}, 'Errors'), el('div', { class: 'body' }, el('table', {}, ...refusals)))));
}

async function main() {
  document_ = await (await fetch('/openapi.json')).json();
  document.getElementById('version').textContent = document_.info.version;
  document.getElementById('description').textContent = document_.info.description;
  const groups = new Map();
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const method of METHODS.filter((it) => methods[it])) {
      const tag = methods[method].tags[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(show(path, method, methods[method]));
    }
  }
  const all = document.getElementById('operations');
  for (const [tag, shown] of groups) all.append(el('section', {}, el('h2', {}, tag), ...shown));
  document.getElementById('find').addEventListener('input', (event) => {
    const word = event.target.value.toLowerCase();
    for (const one of all.querySelectorAll('details[data-text]')) one.hidden = !one.dataset.text.includes(word);
  });
  const wanted = location.hash && document.getElementById(location.hash.slice(1));
  if (wanted) { wanted.open = true; wanted.scrollIntoView(); }
}

main();
