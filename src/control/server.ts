// The control server: the API of api.ts over HTTP, on a unix socket that only its owner may use (all of it), and on a port
// for the dashboard (what only reads).

import { chmodSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import type { Server } from 'node:net'
import fastify, { type FastifyInstance } from 'fastify'
import type { PacketRecord } from '../runtime/packet-trace.ts'
import {
  COMMAND_NAMES,
  type CommandReply,
  type CommandRequest,
  type ControlEvent,
  type HostReport,
  type LinkReport,
  type LinkRequest,
  type PacketEvent,
  type ResourceReport,
} from './api.ts'
import { metricsText } from './metrics.ts'
import { statusPage } from './page.ts'

/** The daemon, as the server sees it. */
export interface ControlBackend {
  report(): HostReport
  resource(name: string): ResourceReport | undefined
  /** Only for a resource that `resource` knows. */
  command(name: string, request: CommandRequest): Promise<CommandReply>
  /** Every packet of a resource that `resource` knows. Returns what ends it. */
  watchPackets(name: string, listener: (record: PacketRecord) => void): () => void
  /** `listener` is called some time after changes, once for many. Returns what ends it. */
  onChange(listener: (resource: string) => void): () => void
  /** undefined: there is no link of a lab. */
  readonly link: { report(): LinkReport; change(request: LinkRequest): void } | undefined
}

/** Makes a server listen; throws an AppError that says why not. Result: where it does. */
export type Listen<Address> = (server: Server, address: Address) => Promise<Address>

const BODY_BYTES_MAX = 64 * 1024
/** A watcher that does not read gets no events above this; then the newest state of all, at once. */
const EVENT_BYTES_MAX = 1024 * 1024
/** A reader of packets that is further behind misses some, and is told how many. */
const PACKET_BYTES_MAX = 4 * 1024 * 1024
const UNKNOWN_RESOURCE: CommandReply = { code: 158, text: 'Unknown resource' }

const COMMAND_SCHEMA = {
  body: {
    type: 'object',
    required: ['command'],
    additionalProperties: false,
    properties: {
      command: { type: 'string', enum: [...COMMAND_NAMES] },
      volume: { type: 'integer', minimum: 0, maximum: 65_535 },
      force: { type: 'boolean' },
      discardMyData: { type: 'boolean' },
      clearBitmap: { type: 'boolean' },
      sizeSectors: { type: 'integer', minimum: 0 },
      assumeClean: { type: 'boolean' },
      startSector: { type: 'integer', minimum: 0 },
      stopSector: { type: 'integer', minimum: 0 },
    },
  },
}
const LINK_SCHEMA = {
  body: {
    type: 'object',
    additionalProperties: false,
    properties: { cut: { type: 'boolean' }, delayMs: { type: 'number', minimum: 0, maximum: 60_000 } },
  },
}

export class ControlServer {
  readonly #backend: ControlBackend
  readonly #apps: FastifyInstance[] = []
  readonly #watchers = new Set<{ end(): void }>()

  constructor(backend: ControlBackend) {
    this.#backend = backend
  }

  /** Serves all of the API on a unix socket. */
  async listenOnSocket<A>(listen: Listen<A>, address: A, path: string): Promise<void> {
    const app = this.#app(true)
    await app.ready()
    // The socket must not be there for others even for a moment.
    const umask = process.umask(0o177)
    try {
      await listen(app.server, address)
    } finally {
      process.umask(umask)
    }
    chmodSync(path, 0o600)
  }

  /** Serves what only reads; the result has the real port. */
  async listenOnPort<A>(listen: Listen<A>, address: A): Promise<A> {
    const app = this.#app(false)
    await app.ready()
    return listen(app.server, address)
  }

  async close(): Promise<void> {
    for (const watcher of this.#watchers) watcher.end()
    for (const app of this.#apps) {
      await app.close()
      // Fastify does not know that its server listens: that was our doing.
      const closed = new Promise((resolve) => app.server.close(resolve))
      app.server.closeAllConnections()
      await closed
    }
  }

  #app(mayChange: boolean): FastifyInstance {
    const app = fastify({
      bodyLimit: BODY_BYTES_MAX,
      logger: false,
      // Events have no end, commands no limit in time; whoever may connect here may have them.
      serverFactory: (handler) => createServer({ requestTimeout: 0 }, handler),
      // A wrong word is an error: nothing is turned into what it might have meant.
      ajv: { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false } },
    })
    this.#apps.push(app)
    const backend = this.#backend
    app.get('/status', () => backend.report())
    app.get<{ Params: { name: string } }>('/resources/:name', (request, reply) => {
      const report = backend.resource(request.params.name)
      return report ?? reply.code(404).send({ message: `${request.params.name}: No such resource` })
    })
    app.get('/events', (_request, reply) => {
      reply.hijack()
      this.#watch(reply.raw)
    })
    app.get('/metrics', async (_request, reply) => {
      reply.type('text/plain; version=0.0.4; charset=utf-8')
      return metricsText(backend.report())
    })
    app.get('/', (_request, reply) => {
      reply.type('text/html; charset=utf-8')
      const report = backend.report()
      return statusPage(`coprime on ${report.host}`, [{ name: report.host, report }])
    })
    if (mayChange) {
      addChanges(app, backend)
      app.get<{ Params: { name: string } }>('/resources/:name/packets', (request, reply) => {
        const { name } = request.params
        if (backend.resource(name) === undefined) {
          return reply.code(404).send({ message: `${name}: No such resource` })
        }
        reply.hijack()
        this.#watchPackets(name, reply.raw)
        return reply
      })
    }
    return app
  }

  #watchPackets(name: string, response: ServerResponse): void {
    response.writeHead(200, { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store' })
    response.flushHeaders()
    const lines = new PacketLines(response)
    const stop = this.#backend.watchPackets(name, (record) => lines.add(record))
    const watcher = {
      end: (): void => {
        stop()
        response.end()
      },
    }
    this.#watchers.add(watcher)
    response.on('error', () => {}) // 'close' follows
    response.on('close', () => {
      watcher.end()
      this.#watchers.delete(watcher)
    })
  }

  #watch(response: ServerResponse): void {
    const watcher = new Watcher(this.#backend, response)
    this.#watchers.add(watcher)
    response.on('close', () => {
      watcher.end()
      this.#watchers.delete(watcher)
    })
    watcher.start()
  }
}

function addChanges(app: FastifyInstance, backend: ControlBackend): void {
  app.post<{ Params: { name: string }; Body: CommandRequest }>(
    '/resources/:name/commands',
    { schema: COMMAND_SCHEMA },
    (request) => {
      const { name } = request.params
      return backend.resource(name) === undefined ? UNKNOWN_RESOURCE : backend.command(name, request.body)
    },
  )
  const { link } = backend
  if (link === undefined) return
  app.get('/link', () => link.report())
  app.post<{ Body: LinkRequest }>('/link', { schema: LINK_SCHEMA }, (request) => {
    link.change(request.body)
    return link.report()
  })
}

/** One reader of /events. Each event is the whole state of a resource, so that those missed are not missed. */
class Watcher {
  readonly #backend: ControlBackend
  readonly #response: ServerResponse
  readonly #behind = new Set<string>()
  #stop: (() => void) | undefined

  constructor(backend: ControlBackend, response: ServerResponse) {
    this.#backend = backend
    this.#response = response
  }

  start(): void {
    this.#response.writeHead(200, { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store' })
    this.#response.on('drain', () => {
      const names = [...this.#behind]
      this.#behind.clear()
      for (const name of names) this.#send(name)
    })
    this.#response.on('error', () => this.end()) // 'close' follows
    this.#stop = this.#backend.onChange((name) => this.#send(name))
    for (const resource of this.#backend.report().resources) this.#write({ type: 'resource', resource })
    this.#write({ type: 'ready' })
  }

  end(): void {
    this.#stop?.()
    this.#stop = undefined
    this.#response.end()
  }

  #send(name: string): void {
    if (this.#response.writableLength > EVENT_BYTES_MAX) {
      this.#behind.add(name)
      return
    }
    const resource = this.#backend.resource(name)
    if (resource !== undefined) this.#write({ type: 'resource', resource })
  }

  #write(event: ControlEvent): void {
    this.#response.write(`${JSON.stringify(event)}\n`)
  }
}

/** Lines of one turn leave together. */
class PacketLines {
  readonly #response: ServerResponse
  #lines: string[] = []
  #missed = 0

  constructor(response: ServerResponse) {
    this.#response = response
  }

  add(record: PacketRecord): void {
    if (this.#response.writableLength > PACKET_BYTES_MAX) {
      this.#missed++
      return
    }
    if (this.#lines.length === 0) setImmediate(() => this.#send())
    if (this.#missed > 0) this.#lines.push(line({ missed: this.#missed }))
    this.#missed = 0
    this.#lines.push(line(record))
  }

  #send(): void {
    if (!this.#response.writableEnded) this.#response.write(this.#lines.join(''))
    this.#lines = []
  }
}

const line = (event: PacketEvent): string => `${JSON.stringify(event)}\n`
