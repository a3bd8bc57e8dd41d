// One run of a plan: a fresh pair, the clients of the plan, and the record of what they were told.

import { SECTOR_BYTES } from '../../base/units.ts'
import type { ClientRequest } from '../../runtime/api.ts'
import { CheckFailure } from '../failure.ts'
import { History } from '../history.ts'
import type { CreateReplica } from '../host.ts'
import { decodeSectors, encodePayload, type SectorValue, ZERO_VALUE } from '../payload.ts'
import { Pair, type Step } from './pair.ts'
import { type NamedPlan, type Operation, PAUSE_MS, type Plan, settingsOfPlans, type Variant } from './plans.ts'

export class Run {
  readonly pair: Pair
  readonly history = new History()
  /** Names of the steps so far. */
  readonly taken: string[] = []
  readonly #plan: Plan
  readonly #started: boolean[]
  readonly #done: boolean[]

  constructor({ plan, beginning }: Pick<NamedPlan, 'plan' | 'beginning'>, createReplica: CreateReplica, as: Variant) {
    this.#plan = plan
    this.pair = new Pair(settingsOfPlans(as), createReplica)
    for (const { host, sector } of beginning) this.pair.writeNow(host, sector)
    this.#started = plan.map(() => false)
    this.#done = plan.map(() => false)
  }

  /** All that may happen now, in an order that depends on the state alone. */
  steps(): Step[] {
    const steps = this.pair.steps()
    this.#plan.forEach((operation, index) => {
      if (this.#started[index] || !operation.after.every((before) => this.#done[before])) return
      const name = `${operation.host} asks ${index}`
      steps.push({ name, host: operation.host, take: () => this.#ask(operation, index) })
    })
    return steps
  }

  take(name: string): void {
    const step = this.steps().find((each) => each.name === name)
    if (step === undefined)
      throw new CheckFailure('explorer', `step "${name}" is not possible: a run is not repeatable`)
    this.taken.push(name)
    step.take()
    this.pair.settle()
  }

  /** The operation that a step begins. */
  operationOf(step: string): number | undefined {
    const found = /^[ab] asks (\d+)$/.exec(step)
    return found === null ? undefined : Number(found[1])
  }

  /** Which operations have been answered, as a string of digits. */
  get answered(): string {
    return this.#done.map((done) => (done ? '1' : '0')).join('')
  }

  get unanswered(): number {
    return this.#done.filter((done) => !done).length
  }

  #ask(operation: Operation, index: number): void {
    const { host, kind, sector, sectors } = operation
    if (kind === 'pause') {
      this.#started[index] = true
      this.#done[index] = true
      this.pair.pass(host, PAUSE_MS)
      return
    }
    const data = encodePayload({ writer: 1, operation: index + 1, sector, sectors })
    const zeroes = new Array<SectorValue>(sectors).fill(ZERO_VALUE)
    const values = kind === 'read' ? [] : kind === 'zero' ? zeroes : decodeSectors(data, sector)
    const logged = this.history.invoke({
      host,
      kind: kind === 'read' ? 'read' : 'write',
      sector,
      sectors,
      fua: false,
      values,
      invokedAtUs: 0,
    })
    this.#started[index] = true
    const request: ClientRequest =
      kind === 'read'
        ? { type: 'read', volume: 0, sector, sectors }
        : kind === 'zero'
          ? { type: 'zero', volume: 0, sector, sectors, unmap: false, fua: false }
          : { type: 'write', volume: 0, sector, data, fua: false }
    this.pair.submit(host, request, (pieces) => {
      if (this.#done[index]) throw new CheckFailure('client-contract', `operation ${index} was answered twice`)
      this.#done[index] = true
      this.history.complete(
        logged,
        'done',
        kind === 'read' ? decodeSectors(joined(pieces ?? [], sectors), sector) : values,
      )
    })
  }
}

function joined(pieces: readonly Uint8Array[], sectors: number): Uint8Array {
  const bytes = new Uint8Array(sectors * SECTOR_BYTES)
  let filled = 0
  for (const piece of pieces) {
    bytes.set(piece, filled)
    filled += piece.length
  }
  return bytes
}
