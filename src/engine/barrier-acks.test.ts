// Goal: the acknowledgement of an epoch with superseded writes reaches a kernel only after a while, and nothing overtakes it.

import assert from 'node:assert/strict'
import { it } from 'node:test'
import type { Packet } from '../wire/drbd/packets.ts'
import { BarrierAcks } from './barrier-acks.ts'
import { BARRIER_ACK_DELAY_MS } from './limits.ts'
import { Timers } from './timers.ts'

function make(): { readonly acks: BarrierAcks; readonly timers: Timers; take(): number[] } {
  const sent: Packet[] = []
  const timers = new Timers()
  const acks = new BarrierAcks(timers, (packet) => sent.push(packet))
  return {
    acks,
    timers,
    take: () => sent.splice(0).map((packet) => (packet.type === 'P_BARRIER_ACK' ? packet.barrier : -1)),
  }
}

it('goes out at once if nothing was withdrawn', () => {
  const { acks, take } = make()
  acks.add(1, 5, 100, false)
  assert.deepEqual(take(), [1])
})

it('waits if something was withdrawn, and what comes later waits behind it', () => {
  const { acks, timers, take } = make()
  acks.add(1, 1, 100, true)
  acks.add(2, 3, 150, false)
  acks.add(3, 1, 200, true)
  acks.add(4, 1, 250, false)
  timers.run(100 + BARRIER_ACK_DELAY_MS - 1)
  assert.deepEqual(take(), [])
  timers.run(100 + BARRIER_ACK_DELAY_MS)
  assert.deepEqual(take(), [1, 2])
  timers.run(200 + BARRIER_ACK_DELAY_MS)
  assert.deepEqual(take(), [3, 4])
  acks.add(5, 1, 5000, false)
  assert.deepEqual(take(), [5])
})

it('forgets all when the connection is lost', () => {
  const { acks, timers, take } = make()
  acks.add(1, 1, 100, true)
  acks.reset()
  timers.run(10_000)
  assert.deepEqual(take(), [])
})
