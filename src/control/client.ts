// The other end of the control socket, for the commands, the lab and tests.

import { type ClientRequest, type IncomingMessage, request } from 'node:http'

import type {
  CommandReply,
  CommandRequest,
  ControlEvent,
  HostReport,
  LinkReport,
  LinkRequest,
  PacketEvent,
  ResourceReport,
} from './api.ts'
import { ControlError } from './errors.ts'

const REPLY_CHARACTERS_MAX = 64 * 1024 * 1024

export class ControlClient {
  readonly socketPath: string

  constructor(socketPath: string) {
    this.socketPath = socketPath
  }

  status(): Promise<HostReport> {
    return this.get<HostReport>('/status')
  }

  /** There is no limit in time: a promotion waits for the fencing handler. */
  command(resource: string, body: CommandRequest): Promise<CommandReply> {
    return this.post<CommandReply>(`/resources/${encodeURIComponent(resource)}/commands`, body)
  }

  link(body: LinkRequest): Promise<LinkReport> {
    return this.post<LinkReport>('/link', body)
  }

  async get<T>(path: string): Promise<T> {
    return JSON.parse(await this.#exchange('GET', path, undefined)) as T
  }

  async post<T>(path: string, body: unknown): Promise<T> {
    return JSON.parse(await this.#exchange('POST', path, JSON.stringify(body))) as T
  }

  /** Events from now on, until the daemon ends (then a ControlError) or `stop` is called. */
  watch(onEvent: (event: ControlEvent) => void, onEnd: (error: ControlError) => void): { stop(): void } {
    return this.#lines('/events', onEvent, onEnd)
  }

  /** Packets of a resource from now on; ends as `watch` does. */
  watchPackets(
    resource: string,
    onEvent: (event: PacketEvent) => void,
    onEnd: (error: ControlError) => void,
  ): { stop(): void } {
    return this.#lines(`/resources/${encodeURIComponent(resource)}/packets`, onEvent, onEnd)
  }

  #lines<T>(path: string, onLine: (line: T) => void, onEnd: (error: ControlError) => void): { stop(): void } {
    let over = false
    const end = (error: ControlError): void => {
      if (over) return
      over = true
      sent.destroy()
      onEnd(error)
    }
    const sent = this.#send('GET', path, undefined, (reply) => {
      if (reply.statusCode !== 200) {
        end(new ControlError('E_CONTROL_ANSWER', `${this.socketPath}: ${path} is answered with ${reply.statusCode}`))
        return
      }
      let rest = ''
      reply.setEncoding('utf8')
      reply.on('data', (text: string) => {
        const lines = (rest + text).split('\n')
        rest = lines.pop() ?? ''
        for (const line of lines) if (!over && line !== '') onLine(JSON.parse(line) as T)
      })
      const lost = (cause?: unknown): void =>
        end(new ControlError('E_CONTROL_LOST', `the daemon at ${this.socketPath} has ended`, { cause }))
      reply.on('close', () => lost())
      reply.on('error', lost)
    })
    sent.on('error', (cause) => end(this.#unreachable(cause)))
    return {
      stop: () => {
        over = true
        sent.destroy()
      },
    }
  }

  /**
   * Waits until `isReached` says so of the reports of all resources. False: not within the time. `timeoutMs` 0: for ever.
   */
  waitFor(isReached: (resources: ReadonlyMap<string, ResourceReport>) => boolean, timeoutMs: number): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const resources = new Map<string, ResourceReport>()
      let ready = false
      const timer = timeoutMs > 0 ? setTimeout(() => finish(false), timeoutMs) : undefined
      const watch = this.watch(
        (event) => {
          if (event.type === 'ready') ready = true
          else resources.set(event.resource.name, event.resource)
          if (ready && isReached(resources)) finish(true)
        },
        (error) => {
          clearTimeout(timer)
          reject(error)
        },
      )
      const finish = (reached: boolean): void => {
        clearTimeout(timer)
        watch.stop()
        resolve(reached)
      }
    })
  }

  #exchange(method: 'GET' | 'POST', path: string, body: string | undefined): Promise<string> {
    return new Promise((resolve, reject) => {
      const sent = this.#send(method, path, body, (reply) => {
        let text = ''
        reply.setEncoding('utf8')
        reply.on('data', (piece: string) => {
          text += piece
          if (text.length > REPLY_CHARACTERS_MAX) reply.destroy(new Error('the reply is too long'))
        })
        reply.on('error', (cause) => {
          reject(new ControlError('E_CONTROL_LOST', `the daemon at ${this.socketPath} ended during ${path}`, { cause }))
        })
        reply.on('end', () => {
          const status = reply.statusCode ?? 0
          if (status === 200) resolve(text)
          else reject(refusal(status, text, path))
        })
      })
      sent.on('error', (cause) => reject(this.#unreachable(cause)))
    })
  }

  #send(
    method: string,
    path: string,
    body: string | undefined,
    onReply: (reply: IncomingMessage) => void,
  ): ClientRequest {
    const headers =
      body === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }
    // No agent: a connection per request, so that nothing keeps a finished command alive.
    const sent = request({ socketPath: this.socketPath, method, path, headers, agent: false }, onReply)
    sent.end(body)
    return sent
  }

  #unreachable(cause: Error): ControlError {
    const { code } = cause as NodeJS.ErrnoException
    const lost = code === 'ECONNRESET' || code === 'EPIPE'
    return lost
      ? new ControlError('E_CONTROL_LOST', `the daemon at ${this.socketPath} has ended`, { cause })
      : new ControlError('E_CONTROL_UNREACHABLE', `no daemon at ${this.socketPath} (${code ?? cause.message})`, {
          cause,
        })
  }
}

function refusal(status: number, text: string, path: string): ControlError {
  let message = `${path} is answered with ${status}`
  try {
    const body = JSON.parse(text) as { readonly message?: unknown }
    if (typeof body.message === 'string') message = body.message
  } catch {
    return new ControlError('E_CONTROL_ANSWER', message, { status })
  }
  return new ControlError('E_CONTROL_REFUSED', message, { status })
}
