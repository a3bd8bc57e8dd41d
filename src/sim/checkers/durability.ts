// What the clients were told, held against what they read, over crashes of any kind:
//
//   - as long as one host with the newest data is alive, or at least keeps its cache, nothing acknowledged may be lost:
//     the whole history must be linearizable (linearizability.ts), crashes or not;
//   - when the last such host dies, writes that were not answered may be gone, also if a reader of one host has seen them;
//     and if caches went as well, now or with the host that died first, unflushed writes may be gone. The history is
//     divided there. In the new part a sector holds one value from before: the same for all readers, and none that a
//     durable write had overwritten. A write is durable if caches were kept and it was answered, if it was FUA, or if a
//     flush was asked for after its answer and before the loss, and answered, be it after the loss: who answers a flush
//     says that all that was answered before it is there to stay.
//
// A write under way during the loss may take effect in either part: if it is answered afterwards, either the value from before
// is one that may have overwritten it already, or it is part of the new one. A read under way during the loss is not judged, nor what
// a host reads that has not noticed the loss: it is of the time before. An answer that comes after a loss of caches may have been on
// its way already, from a cache that is lost: such a write may be gone, unless it was FUA. If zeroing makes it unclear whether a
// read of zero saw old or new content, the reader gets the benefit.

import type { History, LoggedRequest, Loss } from '../history.ts'
import { toRequestRecords } from '../history.ts'
import type { SectorValue } from '../payload.ts'
import { describeValue, ZERO_VALUE } from '../payload.ts'
import { checkRegister, type RegisterOperation, splitIntoSectors } from './linearizability.ts'

export interface HistoryViolation {
  readonly checker: 'linearizability' | 'durability'
  readonly sector: number
  readonly message: string
}

/** Undefined if all that clients were told and shown is in order. */
export function checkHistory(history: History): HistoryViolation | undefined {
  const sectors = splitIntoSectors(toRequestRecords(history.requests))
  const durableFrom = flushTimes(history.requests)
  const fua = new Set<number>()
  for (const request of history.requests) if (request.fua) fua.add(request.invokedAt)
  for (const [sector, operations] of sectors) {
    const violation = checkSector({ sector, operations, losses: history.losses, durableFrom, fua })
    if (violation !== undefined) return violation
  }
  return undefined
}

interface SectorHistory {
  readonly sector: number
  readonly operations: readonly RegisterOperation[]
  readonly losses: readonly Loss[]
  readonly durableFrom: readonly number[]
  readonly fua: ReadonlySet<number>
}

const UNSEEN_VALUE = 'content that nobody read'

/** The time between two losses. */
interface Part {
  readonly startsAt: number
  readonly endsAt: number
  /** Caches were lost at its start. */
  readonly cachesLost: boolean
  /** What ends it; undefined: the end of the history. */
  readonly loss: Loss | undefined
}

function partsBetween(losses: readonly Loss[]): Part[] {
  return [...losses, undefined].map((loss, index) => ({
    startsAt: losses[index - 1]?.at ?? Number.NEGATIVE_INFINITY,
    endsAt: loss?.at ?? Number.POSITIVE_INFINITY,
    cachesLost: losses[index - 1]?.what === 'unflushed',
    loss,
  }))
}

function checkSector(history: SectorHistory): HistoryViolation | undefined {
  const { sector } = history
  const parts = partsBetween(history.losses)
  let initial: SectorValue = ZERO_VALUE
  // What the sector may have held at the start of the part: more than one value if nobody has looked since the loss.
  let candidates: ReadonlySet<SectorValue> = new Set([ZERO_VALUE])
  // The same for the time since caches were lost last: what only processes that died left in them may go with them later.
  let cached = { startsAt: Number.NEGATIVE_INFINITY, cachesLost: false, candidates }
  for (const [index, part] of parts.entries()) {
    const { startsAt } = part
    const operations = withoutOverwritten(history, { startsAt, operations: operationsBetween(history, part), initial })
    const violation = checkRegister(operations, initial)
    if (violation !== undefined) {
      const values = violation.values.map(describeValue).join('; ')
      const message = `sector ${sector}: ${violation.message} (${values})`
      return { checker: 'linearizability', sector, message }
    }
    const { loss, endsAt } = part
    const next = parts[index + 1]
    if (loss === undefined || next === undefined) break
    const before =
      loss.what === 'unflushed'
        ? { ...cached, operations: operationsBetween(history, { ...cached, endsAt }) }
        : { startsAt, operations, candidates }
    const allowed = valuesThatMaySurvive(history, { ...before, loss })
    const survivor = survivingValue(operationsBetween(history, next), allowed)
    if ('message' in survivor) {
      const message = `sector ${sector} after the loss of ${loss.what} writes at ${endsAt}: ${survivor.message}`
      return { checker: 'durability', sector, message }
    }
    initial = survivor.initial
    candidates = survivor.candidates
    if (loss.what === 'unflushed') cached = { startsAt: endsAt, cachesLost: true, candidates }
  }
  return undefined
}

/** The operations of one part, those that cross its borders with their answers adjusted as the head of this file says. */
function operationsBetween(
  { operations, fua }: SectorHistory,
  { startsAt, endsAt, cachesLost }: Omit<Part, 'loss'>,
): RegisterOperation[] {
  const inside: RegisterOperation[] = []
  for (const operation of operations) {
    const completedAt = operation.completedAt ?? Number.POSITIVE_INFINITY
    if (operation.invokedAt > endsAt || completedAt < startsAt) continue
    const crosses = completedAt > endsAt || operation.invokedAt < startsAt
    if (operation.kind === 'read' && crosses) continue
    // Answered after the loss, but perhaps on the strength of what was lost: it may be gone, unless it was durable.
    const isEarlier = operation.kind === 'write' && operation.invokedAt < startsAt
    const mayBeLost = cachesLost && isEarlier && !fua.has(operation.invokedAt)
    inside.push(completedAt > endsAt || mayBeLost ? { ...operation, completedAt: undefined } : operation)
  }
  return inside
}

/**
 * The operations of a part, with the answers left out of those writes that were under way at its start and may have been
 * overwritten before by what was left then: nothing says that they took effect later.
 */
function withoutOverwritten(
  history: SectorHistory,
  {
    startsAt,
    operations,
    initial,
  }: { startsAt: number; operations: readonly RegisterOperation[]; initial: SectorValue },
): readonly RegisterOperation[] {
  return operations.map((operation) =>
    operation.kind === 'write' && mayBeOverwritten(history, operation, { by: initial, before: startsAt })
      ? { ...operation, completedAt: undefined }
      : operation,
  )
}

/**
 * Whether a write that was under way at the time `before` may have taken effect earlier and been overwritten by a value
 * that was there at that time: not if that value was there before the write began, or before a reader saw the write.
 */
function mayBeOverwritten(
  { operations }: SectorHistory,
  write: RegisterOperation,
  { by, before }: { by: SectorValue; before: number },
): boolean {
  if (write.invokedAt >= before) return false
  // Zeroes are written more than once: any of them may be what is left, and no read tells which one it saw.
  let thereSince = Number.NEGATIVE_INFINITY
  let seenUntil = write.invokedAt
  const seen: number[] = []
  for (const { kind, value, invokedAt, completedAt = Number.POSITIVE_INFINITY } of operations) {
    if (kind === 'write' && value === by && invokedAt < before) thereSince = Math.max(thereSince, completedAt)
    else if (kind === 'read' && value === by && by !== ZERO_VALUE) seen.push(completedAt)
    else if (kind === 'read' && value === write.value && value !== ZERO_VALUE && completedAt < before)
      seenUntil = Math.max(seenUntil, invokedAt)
  }
  return seenUntil <= Math.min(thereSince, ...seen)
}

/** When the flushes that were answered had been asked for. */
function flushTimes(requests: readonly LoggedRequest[]): number[] {
  return requests
    .filter(({ kind, outcome }) => kind === 'flush' && outcome === 'done')
    .map(({ invokedAt }) => invokedAt)
}

function valuesThatMaySurvive(
  history: SectorHistory,
  part: {
    startsAt: number
    operations: readonly RegisterOperation[]
    candidates: ReadonlySet<SectorValue>
    loss: Loss
  },
): Set<SectorValue> {
  let lastFlushInvokedAt = Number.NEGATIVE_INFINITY
  for (const flush of history.durableFrom) {
    if (flush < part.loss.at) lastFlushInvokedAt = Math.max(lastFlushInvokedAt, flush)
  }
  const writes = part.operations.filter((operation) => operation.kind === 'write')
  const durable = writes.filter(
    ({ invokedAt, completedAt }) =>
      completedAt !== undefined &&
      (part.loss.what === 'unanswered' || history.fua.has(invokedAt) || completedAt < lastFlushInvokedAt),
  )
  const allowed = new Set<SectorValue>()
  for (const by of part.candidates) {
    if (durable.every((write) => mayBeOverwritten(history, write, { by, before: part.startsAt }))) allowed.add(by)
  }
  // The newest invocation among durable writes: what was complete before it is overwritten for good.
  const durableSince = Math.max(Number.NEGATIVE_INFINITY, ...durable.map((write) => write.invokedAt))
  for (const write of writes) {
    if ((write.completedAt ?? Number.POSITIVE_INFINITY) >= durableSince) allowed.add(write.value)
  }
  return allowed
}

interface Survivor {
  /** What the register of the new part holds at first. */
  readonly initial: SectorValue
  /** What the sector may hold in truth: one value if somebody read it. */
  readonly candidates: ReadonlySet<SectorValue>
}

/** The one old value that the new part shows. */
function survivingValue(
  next: readonly RegisterOperation[],
  allowed: ReadonlySet<SectorValue>,
): Survivor | { readonly message: string } {
  const written = new Set<SectorValue>()
  for (const operation of next) if (operation.kind === 'write') written.add(operation.value)
  const old = new Set<SectorValue>()
  for (const operation of next) {
    if (operation.kind === 'read' && !written.has(operation.value)) old.add(operation.value)
  }
  for (const value of old) {
    if (!allowed.has(value)) return { message: `read ${describeValue(value)}, but later data had been made durable` }
  }
  if (old.size > 1) return { message: `old values ${[...old].map(describeValue).join(' and ')} were both read` }
  const [survivor] = old
  if (survivor !== undefined) return { initial: survivor, candidates: old }
  const maybeZero = written.has(ZERO_VALUE) && allowed.has(ZERO_VALUE)
  return { initial: maybeZero ? ZERO_VALUE : UNSEEN_VALUE, candidates: allowed }
}
