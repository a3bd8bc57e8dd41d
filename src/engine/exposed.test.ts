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
const ALONE = { unsaved: false, alsoOnPeer: false }

describe('ExposedData', () => {
  it('allows anything before clients saw anything', () => {
    const exposed = new ExposedData()
    assert.ok(exposed.mayServeOwn(OTHER) && exposed.mayServePeer(uuids(OTHER)))
  })

  it('a disk that was lost alone: only it, or a peer in the same generation; bit 0 is the role', () => {
    const exposed = new ExposedData()
    exposed.onOwnLost(uuids(OLD), ALONE)
    assert.deepEqual([exposed.mayServeOwn(OLD | 1n), exposed.mayServeOwn(OTHER)], [true, false])
    assert.deepEqual([exposed.mayServePeer(uuids(OLD | 1n)), exposed.mayServePeer(uuids(NEW, OLD))], [true, false])
  })

  it('a disk that was lost while a new generation was being written: either', () => {
    const exposed = new ExposedData()
    exposed.onOwnLost(uuids(NEW, OLD), { ...ALONE, unsaved: true })
    assert.deepEqual(
      [NEW, OLD, OTHER].map((current) => exposed.mayServeOwn(current)),
      [true, true, false],
    )
  })

  it('a disk that was lost while the peer went on: never it, the peer also in the generation that follows', () => {
    const exposed = new ExposedData()
    exposed.onOwnLost(uuids(OLD), { ...ALONE, alsoOnPeer: true })
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

  it('a lost disk that had gone on from what the peer holds; not one whose newest generation may not be on it', () => {
    const exposed = new ExposedData()
    assert.equal(exposed.isPast(OLD), false)
    exposed.onOwnLost({ ...uuids(NEW | 1n, OLD), history1: OTHER }, ALONE)
    const all = [OLD, OLD | 1n, OTHER, NEW, 0x4444n, 0n]
    assert.deepEqual(
      all.map((peer) => exposed.isPast(peer)),
      [true, true, true, false, false, false],
    )
    exposed.onOwnLost(uuids(NEW, OLD), { ...ALONE, unsaved: true })
    assert.equal(exposed.isPast(OLD), false)
    exposed.onOwnLost(uuids(NEW, OLD), ALONE)
    exposed.clear()
    assert.equal(exposed.isPast(OLD), false)
  })

  it('an old disk that was lost: never it, until another one is attached', () => {
    const exposed = new ExposedData()
    exposed.follow(uuids(OLD))
    exposed.onOldLost()
    assert.deepEqual([exposed.hasOutdated(OLD), exposed.mayServePeer(uuids(OLD))], [true, true])
    exposed.clear()
    assert.equal(exposed.hasOutdated(OLD), false)
  })

  it('forgets when a disk is attached', () => {
    const exposed = new ExposedData()
    exposed.onOwnLost(uuids(OLD), { ...ALONE, alsoOnPeer: true })
    exposed.clear()
    assert.ok(exposed.mayServeOwn(OTHER))
  })
})
