// The lab's own two servers: commands from other terminals and the fencing agent on a unix socket, and the page with both hosts
// on a loopback port.

import { createServer } from 'node:http'
import fastify, { type FastifyInstance } from 'fastify'

import { listenOn, type NbdAddress } from '../../adapters/nbd-listen.ts'
import { statusPage } from '../../control/page.ts'
import type { LabStatus } from './api.ts'
import { LAB_DELAY_MS_MAX, SIDES, type SideName } from './options.ts'

export interface LabBackend {
  status(): Promise<LabStatus>
  kill(side: SideName): Promise<void>
  restart(side: SideName): Promise<void>
  /** Exit code of the fence-peer handler that asks. */
  fence(side: SideName): Promise<number>
  setLink(change: { readonly cut?: boolean; readonly delayMs?: number }): Promise<void>
  /** Ends the lab; resolves when both sides are gone. */
  stop(): Promise<void>
}

const SIDE_SCHEMA = {
  body: {
    type: 'object',
    required: ['side'],
    additionalProperties: false,
    properties: { side: { type: 'string', enum: [...SIDES] } },
  },
}
const DELAY_SCHEMA = {
  body: {
    type: 'object',
    required: ['delayMs'],
    additionalProperties: false,
    properties: { delayMs: { type: 'number', minimum: 0, maximum: LAB_DELAY_MS_MAX } },
  },
}

interface SideBody {
  readonly Body: { readonly side: SideName }
}

export class LabServer {
  readonly #apps: FastifyInstance[] = []

  /** Throws a ListenError; E_LISTEN_IN_USE: another lab. */
  async listenOnSocket(path: string, backend: LabBackend): Promise<void> {
    const app = this.#app(backend)
    app.post('/cut', () => linked(backend, { cut: true }))
    app.post('/heal', () => linked(backend, { cut: false }))
    app.post<{ Body: { delayMs: number } }>('/delay', { schema: DELAY_SCHEMA }, ({ body }) => linked(backend, body))
    app.post<SideBody>('/kill', { schema: SIDE_SCHEMA }, async ({ body }) => {
      await backend.kill(body.side)
      return backend.status()
    })
    app.post<SideBody>('/restart', { schema: SIDE_SCHEMA }, async ({ body }) => {
      await backend.restart(body.side)
      return backend.status()
    })
    app.post<SideBody>('/fence', { schema: SIDE_SCHEMA }, async ({ body }) => {
      return { exitCode: await backend.fence(body.side) }
    })
    app.post('/stop', async () => {
      await backend.stop()
      return { stopped: true }
    })
    await app.ready()
    const umask = process.umask(0o177)
    try {
      await listenOn(app.server, { type: 'unix', path })
    } finally {
      process.umask(umask)
    }
  }

  /** Returns the URL. */
  async listenOnPort(backend: LabBackend): Promise<string> {
    const app = this.#app(backend)
    await app.ready()
    const bound: NbdAddress = await listenOn(app.server, { type: 'tcp', host: '127.0.0.1', port: 0 })
    return `http://127.0.0.1:${bound.type === 'tcp' ? bound.port : 0}/`
  }

  async close(): Promise<void> {
    for (const app of this.#apps) {
      await app.close()
      // Fastify does not know that its server listens: that was our doing. Replies under way still leave.
      const closed = new Promise((resolve) => app.server.close(resolve))
      app.server.closeIdleConnections()
      await closed
    }
  }

  #app(backend: LabBackend): FastifyInstance {
    const app = fastify({
      logger: false,
      serverFactory: (handler) => createServer({ requestTimeout: 0 }, handler),
      ajv: { customOptions: { coerceTypes: false, removeAdditional: false } },
    })
    this.#apps.push(app)
    app.get('/status', () => backend.status())
    app.get('/', async (_request, reply) => {
      const { a, b } = await backend.status()
      reply.type('text/html; charset=utf-8')
      return statusPage('coprime lab', [
        { name: 'a', report: a.report ?? undefined },
        { name: 'b', report: b.report ?? undefined },
      ])
    })
    return app
  }
}

async function linked(
  backend: LabBackend,
  change: { readonly cut?: boolean; readonly delayMs?: number },
): Promise<LabStatus> {
  await backend.setLink(change)
  return backend.status()
}
