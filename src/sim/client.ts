// A client of one host: submits requests, and records what it asked and what it was told (history.ts). Several clients may
// use one host; every one has a writer number, so that all that it writes is unique in the world.

import { SECTOR_BYTES } from '../base/units.ts'
import type { ClientError, ClientRequest } from '../runtime/api.ts'
import type { Report } from './failure.ts'
import type { History, LoggedRequest } from './history.ts'
import type { SimHost } from './host.ts'
import { decodeSectors, encodePayload, type SectorValue, ZERO_VALUE } from './payload.ts'
import { POISON } from './poisoning-pool.ts'
import type { Scheduler } from './scheduler.ts'

/** One request of a client, as it stands at present. */
export interface PendingRequest {
  readonly settled: boolean
  /** The client was told that it is done. */
  readonly confirmed: boolean
  /** 'host-down': there was no process, or it died. */
  readonly error: ClientError['code'] | 'host-down' | undefined
  /** Of a read that is done. */
  readonly data: Uint8Array | undefined
}

export interface ClientParts {
  readonly scheduler: Scheduler
  readonly host: SimHost
  readonly history: History
  readonly report: Report
  readonly writer: number
  onActivity(): void
  /** A client has just been told that something is durable: a flush, or a FUA write. */
  onPromise(): void
  /** Runs the world until a request is settled. */
  settle(request: PendingRequest): void
}

export type Settled = (request: PendingRequest) => void

interface MutableRequest {
  settled: boolean
  confirmed: boolean
  error: PendingRequest['error']
  data: Uint8Array | undefined
}

export class SimClient {
  readonly #parts: ClientParts
  #operations = 0

  constructor(parts: ClientParts) {
    this.#parts = parts
  }

  get host(): SimHost {
    return this.#parts.host
  }

  read(what: { sector: number; sectors?: number }, settled?: Settled): PendingRequest {
    const { sector, sectors = 1 } = what
    return this.#submit({ type: 'read', volume: 0, sector, sectors }, settled)
  }

  /** Writes `text`, padded with zeroes to whole sectors, or else `sectors` unique sectors. */
  write(what: { sector: number; text?: string; sectors?: number; fua?: boolean }, settled?: Settled): PendingRequest {
    const { sector, text, sectors = 1, fua = false } = what
    const operation = ++this.#operations
    const data =
      text === undefined
        ? encodePayload({ writer: this.#parts.writer, operation, sector, sectors })
        : encodeText(text, sectors)
    return this.#submit({ type: 'write', volume: 0, sector, data, fua }, settled)
  }

  zero(what: { sector: number; sectors: number; unmap?: boolean; fua?: boolean }, settled?: Settled): PendingRequest {
    const { sector, sectors, unmap = true, fua = false } = what
    return this.#submit({ type: 'zero', volume: 0, sector, sectors, unmap, fua }, settled)
  }

  flush(settled?: Settled): PendingRequest {
    return this.#submit({ type: 'flush', volume: 0 }, settled)
  }

  /** Reads sectors, running the world until they are there, as text without the zeroes at its end. */
  readText(what: { sector: number; sectors?: number }): string {
    const request = this.read(what)
    this.#parts.settle(request)
    const bytes = request.data ?? new Uint8Array()
    let end = bytes.length
    while (end > 0 && bytes[end - 1] === 0) end--
    return new TextDecoder().decode(bytes.subarray(0, end))
  }

  #submit(request: ClientRequest, settled: Settled = () => {}): PendingRequest {
    const { host, history, scheduler, onActivity } = this.#parts
    const pending: MutableRequest = { settled: false, confirmed: false, error: undefined, data: undefined }
    onActivity()
    if (!host.isRunning) {
      Object.assign(pending, { settled: true, error: 'host-down' })
      scheduler.after(0, `client of ${host.name} finds it down`, () => settled(pending))
      return pending
    }
    const logged = history.invoke({ ...describeRequest(request), host: host.name, invokedAtUs: scheduler.nowUs })
    const label = `${host.name} #${logged.number} ${request.type} ${logged.sector}+${logged.sectors}`
    scheduler.note(`${label} asked`)
    const finish = (): void => {
      scheduler.note(`${label} ${pending.error ?? 'done'}`)
      onActivity()
      settled(pending)
    }
    host.submit(
      request,
      (error, data, dataUnused) => {
        if (request.type === 'write' && dataUnused === true) request.data.fill(POISON)
        if (pending.settled) {
          this.#parts.report('client-contract', `${label} was answered twice`)
          return
        }
        pending.settled = true
        if (error === undefined) this.#onDone(logged, pending, data, label)
        else {
          pending.error = error.code
          history.complete(logged, isRefusal(error.code) ? 'refused' : 'unknown')
        }
        finish()
      },
      () => {
        pending.settled = true
        pending.error = 'host-down'
        history.complete(logged, 'unknown')
        finish()
      },
    )
    return pending
  }

  #onDone(
    logged: LoggedRequest,
    pending: MutableRequest,
    pieces: readonly Uint8Array[] | undefined,
    label: string,
  ): void {
    pending.confirmed = true
    if (logged.kind !== 'read') {
      this.#parts.history.complete(logged, 'done')
      if (logged.kind === 'flush' || logged.fua) this.#parts.onPromise()
      return
    }
    const data = concat(pieces ?? [])
    if (data.length !== logged.sectors * SECTOR_BYTES) {
      this.#parts.report('client-contract', `${label} returned ${data.length} bytes`)
      this.#parts.history.complete(logged, 'unknown')
      return
    }
    pending.data = data
    this.#parts.history.complete(logged, 'done', decodeSectors(data, logged.sector))
  }
}

function describeRequest(
  request: ClientRequest,
): Pick<LoggedRequest, 'kind' | 'sector' | 'sectors' | 'fua' | 'values'> {
  switch (request.type) {
    case 'read':
      return { kind: 'read', sector: request.sector, sectors: request.sectors, fua: false, values: [] }
    case 'write': {
      const { sector, data, fua } = request
      return { kind: 'write', sector, sectors: data.length / SECTOR_BYTES, fua, values: decodeSectors(data, sector) }
    }
    case 'zero': {
      const values: SectorValue[] = new Array<SectorValue>(request.sectors).fill(ZERO_VALUE)
      return { kind: 'write', sector: request.sector, sectors: request.sectors, fua: request.fua, values }
    }
    case 'flush':
      return { kind: 'flush', sector: 0, sectors: 0, fua: false, values: [] }
  }
}

/** Errors that promise that nothing was done. */
const isRefusal = (code: ClientError['code']): boolean => code === 'not-primary' || code === 'out-of-range'

function encodeText(text: string, sectorsMin: number): Uint8Array {
  const encoded = new TextEncoder().encode(text)
  const sectors = Math.max(sectorsMin, Math.ceil(encoded.length / SECTOR_BYTES), 1)
  const data = new Uint8Array(sectors * SECTOR_BYTES)
  data.set(encoded)
  return data
}

function concat(pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0))
  let filled = 0
  for (const piece of pieces) {
    whole.set(piece, filled)
    filled += piece.length
  }
  return whole
}
