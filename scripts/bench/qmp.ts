// The monitor of a QEMU program: commands and events as lines of JSON on a unix socket (QMP).

import { createConnection, type Socket } from 'node:net'
import { within } from '../../test/support/bounded.ts'
import { ProgramError } from '../processes.ts'

const TIMEOUT_MS = 30_000

interface Message {
  readonly QMP?: unknown
  readonly return?: unknown
  readonly error?: { readonly desc: string }
  readonly event?: string
}

export class Qmp {
  readonly #socket: Socket
  readonly #events: string[] = []
  #text = ''
  #onReply: ((message: Message) => void) | undefined
  #onEvent: (() => void) | undefined

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.setEncoding('utf8')
    socket.on('data', (text) => this.#onText(String(text)))
    socket.on('error', () => socket.destroy()) // whoever waits for a reply runs into its bound
  }

  static async connect(path: string): Promise<Qmp> {
    const socket = createConnection({ path })
    await within(
      TIMEOUT_MS,
      `a connection to ${path}`,
      new Promise<void>((resolve, reject) => {
        socket.once('connect', () => resolve())
        socket.once('error', reject)
      }),
    )
    const qmp = new Qmp(socket)
    await qmp.execute('qmp_capabilities', {})
    return qmp
  }

  /** One at a time. */
  async execute(command: string, args: Readonly<Record<string, unknown>>): Promise<unknown> {
    const reply = new Promise<Message>((resolve) => {
      this.#onReply = resolve
    })
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`)
    const message = await within(TIMEOUT_MS, `QMP: the answer to ${command}`, reply)
    if (message.error !== undefined) throw new ProgramError(`QMP ${command}: ${message.error.desc}`)
    return message.return
  }

  /** Waits for an event; one that came before counts. */
  async event(name: string): Promise<void> {
    const seen = new Promise<void>((resolve) => {
      this.#onEvent = () => {
        if (this.#events.includes(name)) resolve()
      }
      this.#onEvent()
    })
    await within(TIMEOUT_MS, () => `QMP: event ${name}; seen: ${this.#events.join(' ')}`, seen)
  }

  close(): void {
    this.#socket.destroy()
  }

  #onText(text: string): void {
    const lines = (this.#text + text).split('\n')
    this.#text = lines.pop() ?? ''
    for (const line of lines) {
      const message = JSON.parse(line) as Message
      if (message.event !== undefined) {
        this.#events.push(message.event)
        this.#onEvent?.()
      } else if (message.QMP === undefined) this.#onReply?.(message)
    }
  }
}
