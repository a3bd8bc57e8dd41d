// One virtio-serial port of the guest, whose agent (initramfs.ts) runs the shell scripts it is sent, one at a time. Commands
// and output travel in base64 between marks with a random id, so that nothing that the guest says is mistaken for one.

import { randomBytes } from 'node:crypto'
import { createConnection, type Socket } from 'node:net'

export interface GuestResult {
  /** 137: killed for taking too long. */
  readonly code: number
  readonly stdout: Buffer
  readonly stderr: Buffer
}

interface Waiting {
  readonly id: string
  resolve(result: GuestResult): void
  reject(error: Error): void
}

/** The guest itself ends a command that takes too long; this is for a guest that does not answer at all. */
const ANSWER_MARGIN_MS = 30_000

export class GuestChannel {
  readonly #socket: Socket
  #received = ''
  #waiting: Waiting | undefined
  #dead: Error | undefined

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.setEncoding('latin1').on('data', (text: string) => {
      this.#received += text
      this.#look()
    })
    const gone = (): void => this.#die(new Error('the guest is gone'))
    socket.on('close', gone)
    socket.on('error', gone)
  }

  static open(path: string): Promise<GuestChannel> {
    return new Promise((resolve, reject) => {
      const socket = createConnection(path)
      socket.once('error', reject)
      socket.once('connect', () => {
        socket.off('error', reject)
        resolve(new GuestChannel(socket))
      })
    })
  }

  run(script: string, timeoutMs: number): Promise<GuestResult> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead)
    const id = randomBytes(8).toString('hex')
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        if (this.#waiting?.id === id)
          this.#die(
            new Error(`no answer from the guest in ${timeoutMs + ANSWER_MARGIN_MS} ms: ${script.slice(0, 120)}`),
          )
      }, timeoutMs + ANSWER_MARGIN_MS)
      this.#waiting = {
        id,
        resolve: (result) => {
          clearTimeout(timer)
          resolve(result)
        },
        reject: (error) => {
          clearTimeout(timer)
          reject(error)
        },
      }
      const seconds = Math.max(1, Math.ceil(timeoutMs / 1000))
      this.#socket.write(`${id} ${seconds} ${Buffer.from(script).toString('base64')}\n`)
    })
  }

  close(): void {
    this.#socket.destroy()
  }

  #die(error: Error): void {
    this.#dead ??= error
    const waiting = this.#waiting
    this.#waiting = undefined
    waiting?.reject(this.#dead)
  }

  #look(): void {
    const waiting = this.#waiting
    if (waiting === undefined) return
    const begin = `BEGIN ${waiting.id}\n`
    const errors = `ERRORS ${waiting.id}\n`
    const from = this.#received.indexOf(begin)
    if (from < 0) return
    const rest = this.#received.slice(from + begin.length)
    const end = new RegExp(`END ${waiting.id} (\\d+)\\r?\\n`).exec(rest)
    if (end === null) return
    const body = rest.slice(0, end.index)
    this.#received = rest.slice(end.index + end[0].length)
    const split = body.indexOf(errors)
    this.#waiting = undefined
    waiting.resolve({
      code: Number(end[1]),
      stdout: Buffer.from(body.slice(0, split), 'base64'),
      stderr: Buffer.from(body.slice(split + errors.length), 'base64'),
    })
  }
}
