// The users of the demo: a client on each host, and the log of all that they asked and were told. The log and the form of
// the data are those of the simulator, so that the same exact checker can judge both.

import type { NbdConnectionToServer } from '../../src/adapters/nbd-client.ts'
import { SECTOR_BYTES } from '../../src/base/units.ts'
import { NbdCommandError } from '../../src/nbd/client/errors.ts'
import type { History } from '../../src/sim/history.ts'
import { decodeSectors, encodePayload, type SectorValue, writtenValue } from '../../src/sim/payload.ts'
import type { LabHost } from '../lab.ts'

export interface Range {
  readonly sector: number
  readonly sectors: number
}

export class Client {
  readonly host: LabHost
  readonly #history: History
  /** Number of the writer in the data that it writes. */
  readonly #writer: number
  #connection: NbdConnectionToServer | undefined
  #operations = 0
  #lastAnswerMs = 0
  acknowledgedWrites = 0
  acknowledgedReads = 0
  /** No answer: the host died. Such a write may be there or not. */
  unansweredRequests = 0
  /** Requests that the host answered with an error. Only a dead host may fail, so there must be none. */
  readonly errors: string[] = []
  /** Longest time between two answers since `beginPauseWatch`. */
  longestPauseMs = 0

  constructor(options: { readonly host: LabHost; readonly writer: number; readonly history: History }) {
    this.host = options.host
    this.#writer = options.writer
    this.#history = options.history
  }

  get isConnected(): boolean {
    return this.#connection !== undefined
  }

  get sizeBytes(): number {
    return this.#connection?.sizeBytes ?? 0
  }

  async connect(): Promise<void> {
    this.#connection = await this.host.connect()
  }

  async disconnect(): Promise<void> {
    await this.#connection?.disconnect()
    this.#connection = undefined
  }

  async flush(): Promise<void> {
    await this.#connection?.flush()
  }

  /** Writes data that no other write has. False: no answer, or an error. */
  async write(range: Range): Promise<boolean> {
    const write = { writer: this.#writer, operation: ++this.#operations, ...range }
    const value = writtenValue(write.writer, write.operation)
    const values = new Array<SectorValue>(range.sectors).fill(value)
    const data = encodePayload(write)
    const answered = await this.#request('write', range, values, async (connection) => {
      await connection.write(range.sector * SECTOR_BYTES, data)
      return values
    })
    if (answered) this.acknowledgedWrites++
    return answered
  }

  async read(range: Range): Promise<boolean> {
    const answered = await this.#request('read', range, [], async (connection) =>
      decodeSectors(await connection.read(range.sector * SECTOR_BYTES, range.sectors * SECTOR_BYTES), range.sector),
    )
    if (answered) this.acknowledgedReads++
    return answered
  }

  beginPauseWatch(): void {
    this.#lastAnswerMs = performance.now()
    this.longestPauseMs = 0
  }

  async #request(
    kind: 'read' | 'write',
    range: Range,
    values: readonly SectorValue[],
    command: (connection: NbdConnectionToServer) => Promise<readonly SectorValue[]>,
  ): Promise<boolean> {
    const connection = this.#connection
    if (connection === undefined) return false
    const invokedAtUs = Math.round(performance.now() * 1000)
    const logged = this.#history.invoke({ host: this.host.name, kind, ...range, fua: false, values, invokedAtUs })
    try {
      this.#history.complete(logged, 'done', await command(connection))
    } catch (error) {
      this.#history.complete(logged, 'unknown')
      if (error instanceof NbdCommandError) this.errors.push(`${kind} of sector ${range.sector}: ${error.message}`)
      else this.#connection = undefined
      this.unansweredRequests++
      return false
    }
    const nowMs = performance.now()
    this.longestPauseMs = Math.max(this.longestPauseMs, nowMs - this.#lastAnswerMs)
    this.#lastAnswerMs = nowMs
    return true
  }
}
