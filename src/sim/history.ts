// The record of what clients asked and what they were told: the only evidence that the checkers of the contract use.
// Invocations and responses are numbered in the order in which they happened, so that "before" is never in doubt.

import type { RequestRecord } from './checkers/linearizability.ts'
import type { SectorValue } from './payload.ts'

export type RequestOutcome =
  | 'pending'
  | 'done'
  /** Refused before it could have any effect (not primary, out of range). */
  | 'refused'
  /** An error, or the host died: a write may or may not take effect, now or later. */
  | 'unknown'

export interface LoggedRequest {
  readonly number: number
  readonly host: string
  readonly kind: 'read' | 'write' | 'flush'
  readonly sector: number
  readonly sectors: number
  readonly fua: boolean
  readonly invokedAtUs: number
  readonly invokedAt: number
  completedAt: number | undefined
  outcome: RequestOutcome
  /** A read on a host that had not noticed a loss: it is not judged. */
  isOfBefore?: boolean
  /** Of a write: what it writes; of a read that is done: what it returned. */
  values: readonly SectorValue[]
}

export interface Loss {
  readonly at: number
  /**
   * `unflushed`: caches went with it: what was not flushed may be gone. `unanswered`: only processes died: what was answered
   * is there, but a write that was not answered may be gone, also if a reader on one host has seen it.
   */
  readonly what: 'unflushed' | 'unanswered'
}

export class History {
  readonly requests: LoggedRequest[] = []
  /** Moments at which the last host that had the newest data died. */
  readonly losses: Loss[] = []
  /** Hosts that have not noticed yet that the other one died with the newest data: what they read is of the time before. */
  readonly unaware = new Set<string>()
  #position = 0

  /** Number of the last invocation, response or loss. */
  get position(): number {
    return this.#position
  }

  invoke(
    request: Pick<LoggedRequest, 'host' | 'kind' | 'sector' | 'sectors' | 'fua' | 'values' | 'invokedAtUs'>,
  ): LoggedRequest {
    const logged: LoggedRequest = {
      ...request,
      number: this.requests.length + 1,
      invokedAt: ++this.#position,
      completedAt: undefined,
      outcome: 'pending',
    }
    this.requests.push(logged)
    return logged
  }

  complete(request: LoggedRequest, outcome: 'done' | 'refused' | 'unknown', values = request.values): void {
    request.outcome = outcome
    request.isOfBefore = request.kind === 'read' && this.unaware.has(request.host)
    request.completedAt = ++this.#position
    request.values = values
  }

  lose(what: Loss['what']): void {
    this.losses.push({ at: ++this.#position, what })
  }
}

/** The reads and writes that matter for linearizability. */
export function toRequestRecords(requests: readonly LoggedRequest[]): RequestRecord[] {
  const records: RequestRecord[] = []
  for (const { kind, outcome, isOfBefore, sector, values, invokedAt, completedAt } of requests) {
    if (isOfBefore === true) continue
    if (kind === 'flush' || outcome === 'refused' || (kind === 'read' && outcome !== 'done')) continue
    records.push({ kind, sector, values, invokedAt, completedAt: outcome === 'done' ? completedAt : undefined })
  }
  return records
}
