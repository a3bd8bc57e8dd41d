// What the fence-peer handler of a lab runs: asks the lab over its socket to make sure that the peer is dead. Its exit code is
// the handler's (config-and-tools.md 1.8): 7 = the peer was powered off; anything else leaves I/O frozen. Kept small: the
// time it takes to start is time without I/O.
//
//   fence-agent.js SOCKET PEER

import { request } from 'node:http'

const EXIT_NO_ANSWER = 1
const [, , socketPath = '', peer = ''] = process.argv
const body = JSON.stringify({ side: peer })
const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }

const sent = request({ socketPath, method: 'POST', path: '/fence', headers }, (reply) => {
  let text = ''
  reply.setEncoding('utf8')
  reply.on('data', (piece: string) => {
    text += piece
  })
  reply.on('end', () => {
    const answer = reply.statusCode === 200 ? (JSON.parse(text) as { readonly exitCode?: unknown }) : {}
    process.exitCode = typeof answer.exitCode === 'number' ? answer.exitCode : EXIT_NO_ANSWER
  })
})
sent.on('error', (error) => {
  process.stderr.write(`no lab at ${socketPath}: ${error.message}\n`)
  process.exitCode = EXIT_NO_ANSWER
})
sent.end(body)
