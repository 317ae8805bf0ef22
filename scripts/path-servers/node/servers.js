// A guarded and an open place, by Express, by its files, by Node's `new URL`, and by Node's `url.parse` with what is usual behind it:
// node servers.js EXPRESS_PORT FILES_PORT URL_PORT PARSE_PORT FOLDER
'use strict';
const http = require('node:http');
const path = require('node:path');
const url = require('node:url');
const express = require('express');

process.removeAllListeners('warning');
const [expressPort, filesPort, urlPort, parsePort, folder] = process.argv.slice(2);
const listen = (handler, port) => http.createServer(handler).listen(Number(port), '127.0.0.1');
const send = (name) => (request, response) => response.end(`served: ${name}\n`);

const app = express();
app.use('/admin', send('admin'));
app.use('/public', send('public'));
listen(app, expressPort);

const files = express();
files.use(express.static(folder));
listen(files, filesPort);

function byPath(request, response, read) {
  let text;
  try {
    text = read(request.url);
  } catch {
    response.statusCode = 400;
    return response.end('bad request\n');
  }
  const below = (prefix) => text === prefix || text.startsWith(`${prefix}/`);
  for (const name of ['admin', 'public']) {
    if (below(`/${name}`)) return send(name)(request, response);
  }
  response.statusCode = 404;
  response.end('not found\n');
}

listen((request, response) => byPath(request, response, (text) => decodeURIComponent(new URL(text, 'http://localhost').pathname)), urlPort);
listen((request, response) => byPath(request, response, (text) => path.posix.normalize(decodeURIComponent(url.parse(text).pathname))), parsePort);
