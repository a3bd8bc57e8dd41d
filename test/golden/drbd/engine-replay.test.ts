// Goal: our engine in the place of either of two recorded kernels answers as that kernel did: the handshake with its decision, the
// states on the way, every acknowledgement, barrier, reply, resync and verify answer; and it never finds a fault in what a
// real kernel sends.
// Method: every connection of every capture that has its handshake in it, once as each side (engine-replay.ts). What is left
// out is listed below with its reason.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { defined } from '../../../src/base/assert.ts'
import { EngineReplay, type Outcome, sessionsOf } from './engine-replay.ts'
import { captureNames, type Node } from './replay.ts'

/** Captures, or `capture side`, whose engine cannot be told all that the recorded kernel knew. */
const LEFT_OUT = new Map([
  ['11c-auth-wrong-secret', 'ends before the state of the hosts is known'],
  ['11d-auth-one-side', 'ends before the state of the hosts is known'],
  ['14-dual-primary-conflict a', 'the link was slow: which stream was read first is not in the recording'],
  ['19-io-errors b', 'the disk of b fails there, and only b knew when'],
  ['19b-io-error-read b', 'the disk of b fails there, and only b knew when'],
  ['20-congestion a', 'what a wrote while it was Ahead is not in the recording'],
  ['22z-protocol-86-discard-hangs a', 'a sent a discard that its version does not have, and its kernel died of it'],
  ['25-two-volumes', 'the driver of the engine tests knows volumes that are numbered from 0 on'],
])

/** The recorded kernel gave fewer answers there, for a reason of its own. */
const MORE_ANSWERS = new Map([
  ['18b-ping-timeout b', 'the guest stood still when the acknowledgement was due'],
])

/** Sent in any order: a disk decides it. */
const UNORDERED = new Set(['acknowledgements', 'resync data', 'reads', 'verify', 'verify results'])

function compare(outcome: Outcome, mayHaveMore: boolean): void {
  for (const kind of new Set([...outcome.recorded.keys(), ...outcome.engine.keys()])) {
    const [recorded, engine] = [outcome.recorded, outcome.engine].map((of) => listOf(of, kind)) as [string[], string[]]
    if (mayHaveMore) assert.deepEqual(missingFrom(engine, recorded), [], `${kind} that the engine does not give`)
    else assert.deepEqual(engine, recorded, kind)
  }
}

function listOf(answers: Outcome['engine'], kind: string): string[] {
  const list = [...(answers.get(kind) ?? [])]
  if (UNORDERED.has(kind)) return list.sort()
  // A state that is told twice says nothing new.
  return kind === 'states' ? list.filter((text, i) => text !== list[i - 1]) : list
}

function missingFrom(list: readonly string[], wanted: readonly string[]): string[] {
  const left = [...list]
  return wanted.filter((text) => {
    const index = left.indexOf(text)
    if (index >= 0) left.splice(index, 1)
    return index < 0
  })
}

const isLeftOut = (capture: string, us: Node): boolean => LEFT_OUT.has(capture) || LEFT_OUT.has(`${capture} ${us}`)

describe('the engine in the place of a recorded kernel', () => {
  let count = 0
  for (const capture of captureNames) {
    for (const [i, session] of sessionsOf(capture).entries()) {
      for (const us of ['a', 'b'] as const) {
        if (isLeftOut(capture, us)) continue
        count++
        it(`${capture}, connection ${i + 1}, as ${us}`, () => {
          const altered = capture === '12b-integrity-corrupted' && i === 0 && us === 'b'
          const replay = new EngineReplay(session, us)
          // The recording has what was sent, not what arrived.
          if (altered) replay.flipBitOfWriteAt(40)
          const outcome = replay.run()
          compare(outcome, MORE_ANSWERS.has(`${capture} ${us}`))
          const { dropped } = outcome
          if (altered) assert.match(dropped ?? '', /data integrity/)
          else if (capture.startsWith('17-')) assert.match(dropped ?? '', /split brain/)
          else assert.ok(dropped === undefined || /the peer disconnected/.test(dropped), dropped)
        })
      }
    }
  }

  it('there are as many of these as there should be', () => {
    assert.ok(count >= 130, `${count} connections`)
    for (const name of [...LEFT_OUT.keys(), ...MORE_ANSWERS.keys()])
      assert.ok(captureNames.includes(defined(name.split(' ')[0], 'name')), name)
  })
})
