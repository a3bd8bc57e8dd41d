// Goal: a host without a disk goes on only with the data that its clients saw last. Method: every way to lose a disk, against
// every generation that may turn up.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { Uuids } from '../meta/uuids.ts'
import { ExposedData } from './exposed.ts'

const OLD = 0x1111_0000_0000_0000n
const NEW = 0x2222_0000_0000_0000n
const OTHER = 0x3333_0000_0000_0000n
const uuids = (current: bigint, bitmap = 0n): Uuids => ({ current, bitmap, history1: 0n, history2: 0n })

describe('ExposedData', () => {
  it('allows anything before clients saw anything', () => {
    const exposed = new ExposedData()
    assert.ok(exposed.mayServeOwn(OTHER) && exposed.mayServePeer(uuids(OTHER)))
  })

  it('a disk that was lost alone: only it, or a peer in the same generation; bit 0 is the role', () => {
    const exposed = new ExposedData()
    exposed.onOwnLost([OLD], false)
    assert.deepEqual([exposed.mayServeOwn(OLD | 1n), exposed.mayServeOwn(OTHER)], [true, false])
    assert.deepEqual([exposed.mayServePeer(uuids(OLD | 1n)), exposed.mayServePeer(uuids(NEW, OLD))], [true, false])
  })

  it('a disk that was lost while a new generation was being written: either', () => {
    const exposed = new ExposedData()
    exposed.onOwnLost([NEW, OLD], false)
    assert.deepEqual(
      [NEW, OLD, OTHER].map((current) => exposed.mayServeOwn(current)),
      [true, true, false],
    )
  })

  it('a disk that was lost while the peer went on: never it, the peer also in the generation that follows', () => {
    const exposed = new ExposedData()
    exposed.onOwnLost([OLD], true)
    assert.equal(exposed.mayServeOwn(OLD), false)
    assert.deepEqual(
      [uuids(OLD), uuids(NEW, OLD), uuids(NEW, OTHER)].map((peer) => exposed.mayServePeer(peer)),
      [true, true, false],
    )
    exposed.follow(uuids(OLD))
    assert.equal(exposed.mayServeOwn(OLD), false, 'told in the old generation still')
    exposed.follow(uuids(NEW, OLD))
    assert.deepEqual([exposed.mayServeOwn(OLD), exposed.mayServePeer(uuids(OLD))], [false, false])
    assert.equal(exposed.mayServeOwn(NEW), true)
  })

  it('forgets when a disk is attached', () => {
    const exposed = new ExposedData()
    exposed.onOwnLost([OLD], true)
    exposed.clear()
    assert.ok(exposed.mayServeOwn(OTHER))
  })
})
