// Goal: barriers and their acknowledgements as section 6.4 and 7.5 have them, as writer and as receiver.
// Method: a host that writes down what is sent; the peer's side by hand.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { type EpochHost, ReceivedEpochs, type SentEpoch, SentEpochs } from './epochs.ts'
import type { LocalWrite } from './requests.ts'

interface TestHost extends EpochHost {
  strictEpochs: boolean
  maxEpochSize: number
  readonly sent: string[]
  readonly errors: string[]
}

function testHost(strictEpochs: boolean, maxEpochSize = 100): TestHost {
  const sent: string[] = []
  const errors: string[] = []
  return {
    strictEpochs,
    get endsEpochsEarly() {
      return this.strictEpochs
    },
    maxEpochSize,
    sent,
    errors,
    sendData: (packet) => sent.push(packet.type === 'P_BARRIER' ? `barrier ${packet.barrier}` : packet.type),
    sendBarrierAck: (barrier, setSize, withdrawn) =>
      sent.push(`ack ${barrier} of ${setSize}${withdrawn ? ', some withdrawn' : ''}`),
    protocolError: (reason) => errors.push(reason),
    flushBetweenEpochs: (done) => done(),
    onEpochAdvance: () => undefined,
  }
}

describe('SentEpochs', () => {
  function writer(strictEpochs = true, maxEpochSize = 100): { host: TestHost; epochs: SentEpochs; write(): SentEpoch } {
    const host = testHost(strictEpochs, maxEpochSize)
    const epochs = new SentEpochs(host)
    const write = (): SentEpoch => {
      const request = {} as LocalWrite
      const epoch = epochs.assign(request)
      assert.equal(request.epoch, epoch)
      epochs.sent(epoch)
      host.sent.push('write')
      epochs.onIdle()
      return epoch
    }
    return { host, epochs, write }
  }

  it('towards a kernel peer the first completion closes the epoch; its barrier follows at once when idle', () => {
    const { host, epochs, write } = writer()
    const first = write()
    write()
    assert.deepEqual(host.sent, ['write', 'write'], 'in flight together: one epoch')
    epochs.onCompletion(first)
    epochs.onIdle()
    assert.deepEqual(host.sent, ['write', 'write', 'barrier 1'])
    write()
    assert.deepEqual(host.sent.at(-1), 'write')
    epochs.onIdle()
    assert.equal(host.sent.length, 4, 'an epoch that is open has no barrier')
  })

  it('the barrier stands before the first write of the next epoch', () => {
    const { host, epochs } = writer()
    const first = epochs.assign(undefined)
    epochs.sent(first)
    epochs.onCompletion(first)
    const second = epochs.assign(undefined)
    assert.notEqual(second, first)
    assert.deepEqual(host.sent, ['barrier 1'])
  })

  it('an epoch of which nothing was sent has no barrier', () => {
    const { host, epochs } = writer()
    epochs.onCompletion(epochs.assign(undefined))
    epochs.onIdle()
    epochs.close()
    epochs.close()
    epochs.onIdle()
    assert.deepEqual(host.sent, [])
  })

  it('between two of ours a completion closes nothing, a full epoch does', () => {
    const { host, epochs, write } = writer(false, 3)
    epochs.onCompletion(write())
    write()
    assert.deepEqual(host.sent, ['write', 'write'])
    write()
    assert.deepEqual(host.sent, ['write', 'write', 'write', 'barrier 1'])
  })

  it('a completion of an older epoch does not close the current one', () => {
    const { host, epochs, write } = writer()
    const first = write()
    const second = write()
    assert.equal(first, second)
    epochs.onCompletion(first)
    const third = write()
    epochs.onCompletion(second)
    epochs.onIdle()
    assert.equal(write(), third)
    assert.equal(host.sent.filter((text) => text.startsWith('barrier')).length, 1)
  })

  it('accepts the acknowledgement of the oldest epoch with the number of writes sent', () => {
    const { host, epochs, write } = writer()
    epochs.onCompletion(write())
    epochs.onIdle()
    epochs.onBarrierAck(1, 1)
    assert.deepEqual(host.errors, [])
    epochs.onBarrierAck(1, 1)
    assert.equal(host.errors.length, 1, 'twice is once too often')
  })

  for (const [name, barrier, setSize] of [
    ['a number that is not outstanding', 7, 1],
    ['the number of the epoch that is open', 2, 1],
    ['too many writes', 1, 2],
    ['too few writes', 1, 0],
  ] as const) {
    it(`refuses ${name}`, () => {
      const { host, epochs, write } = writer()
      epochs.onCompletion(write())
      epochs.onIdle()
      write()
      epochs.onBarrierAck(barrier, setSize)
      assert.equal(host.errors.length, 1)
      assert.match(host.errors[0] as string, new RegExp(`epoch ${barrier}`))
    })
  }

  it('refuses an acknowledgement out of order', () => {
    const { host, epochs, write } = writer()
    for (let i = 0; i < 2; i++) {
      epochs.onCompletion(write())
      epochs.onIdle()
    }
    epochs.onBarrierAck(2, 1)
    assert.equal(host.errors.length, 1)
  })

  it('takes set_size with and without superseded writes (7.5)', () => {
    for (const setSize of [3, 2]) {
      const { host, epochs, write } = writer()
      write()
      write()
      const epoch = write()
      epoch.withdrawn++
      epochs.onCompletion(epoch)
      epochs.onIdle()
      epochs.onBarrierAck(1, setSize)
      assert.deepEqual(host.errors, [], `set_size ${setSize}`)
    }
  })

  it('an epoch with a superseded write may be passed over: the next acknowledgement stands for it (7.5)', () => {
    const { host, epochs, write } = writer()
    const first = write()
    first.withdrawn++
    epochs.onCompletion(first)
    epochs.onIdle()
    epochs.onCompletion(write())
    epochs.onIdle()
    epochs.onBarrierAck(2, 1)
    assert.deepEqual(host.errors, [])
    epochs.onBarrierAck(1, 1)
    assert.equal(host.errors.length, 1, 'it is retired')
  })

  it('numbers go on after a lost connection, and nothing old is expected', () => {
    const { host, epochs, write } = writer()
    epochs.onCompletion(write())
    epochs.onIdle()
    write()
    epochs.reset()
    host.sent.length = 0
    const epoch = write()
    assert.deepEqual(host.sent, ['write'], 'no barrier for writes of the lost connection')
    epochs.onCompletion(epoch)
    epochs.onIdle()
    assert.deepEqual(host.sent, ['write', `barrier ${epoch.number}`])
    assert.ok(epoch.number > 1)
    epochs.onBarrierAck(epoch.number, 1)
    assert.deepEqual(host.errors, [])
  })
})

describe('ReceivedEpochs', () => {
  function receiver(): { host: TestHost; epochs: ReceivedEpochs } {
    const host = testHost(true)
    return { host, epochs: new ReceivedEpochs(host) }
  }

  it('acknowledges a barrier when all of its writes are acknowledged, with their number', () => {
    const { host, epochs } = receiver()
    const first = epochs.received()
    assert.equal(epochs.received(), first)
    epochs.onBarrier(77)
    epochs.written(first)
    assert.deepEqual(host.sent, [])
    epochs.written(first)
    assert.deepEqual(host.sent, ['ack 77 of 2'])
  })

  it('acknowledges at once if the writes are done when the barrier comes', () => {
    const { host, epochs } = receiver()
    epochs.written(epochs.received())
    assert.deepEqual(host.sent, [])
    epochs.onBarrier(0xdeadbeef)
    assert.deepEqual(host.sent, [`ack ${0xdeadbeef} of 1`])
  })

  it('acknowledges in the order of the barriers', () => {
    const { host, epochs } = receiver()
    const first = epochs.received()
    epochs.onBarrier(1)
    const second = epochs.received()
    epochs.onBarrier(2)
    epochs.written(second)
    assert.deepEqual(host.sent, [])
    epochs.written(first)
    assert.deepEqual(host.sent, ['ack 1 of 1', 'ack 2 of 1'])
  })

  it('superseded and retried writes count neither as pending nor in set_size; an epoch of nothing else has no ack', () => {
    const { host, epochs } = receiver()
    const first = epochs.received()
    epochs.received()
    epochs.onBarrier(1)
    epochs.withdrawn(first)
    epochs.written(first)
    const second = epochs.received()
    epochs.onBarrier(2)
    epochs.withdrawn(second)
    const third = epochs.received()
    epochs.onBarrier(3)
    epochs.written(third)
    assert.deepEqual(host.sent, ['ack 1 of 1, some withdrawn', 'ack 3 of 1, some withdrawn'])
  })

  it('tells which epoch may go to disk', () => {
    const { epochs } = receiver()
    const first = epochs.received()
    assert.equal(epochs.isOldest(first), true)
    epochs.onBarrier(1)
    const second = epochs.received()
    assert.deepEqual([epochs.isOldest(first), epochs.isOldest(second)], [true, false])
    epochs.written(first)
    assert.equal(epochs.isOldest(second), true)
  })

  it('nothing of a lost connection is acknowledged', () => {
    const { host, epochs } = receiver()
    const first = epochs.received()
    epochs.onBarrier(1)
    const second = epochs.received()
    epochs.reset()
    assert.deepEqual([first.lost, second.lost], [true, true])
    const third = epochs.received()
    epochs.onBarrier(1)
    epochs.written(first)
    epochs.written(second)
    assert.deepEqual(host.sent, [])
    epochs.written(third)
    assert.deepEqual(host.sent, ['ack 1 of 1'])
  })

  it('the acknowledgement behind an epoch of which nothing is left is held back, too', () => {
    const host = testHost(true)
    const epochs = new ReceivedEpochs(host)
    epochs.withdrawn(epochs.received())
    epochs.onBarrier(1)
    epochs.written(epochs.received())
    epochs.onBarrier(2)
    epochs.written(epochs.received())
    epochs.onBarrier(3)
    assert.deepEqual(host.sent, ['ack 2 of 1, some withdrawn', 'ack 3 of 1'])
  })
})
