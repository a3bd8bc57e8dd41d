// Goal: two operations that overlap and of which one writes are never at the disk together, and a read waits for a write that
// is not complete everywhere; nothing else waits.
// Method: the whole table of `mustWait`, row by row.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import {
  LocalRead,
  LocalWrite,
  mustWait,
  PeerRead,
  PeerWrite,
  type Request,
  ResyncRequest,
  VerifyRequest,
} from './requests.ts'

const io = { volume: { engine: { connection: { session: 1 } } }, resync: { run: 0 } } as never
const localRead = (patch: Partial<LocalRead> = {}): LocalRead => Object.assign(new LocalRead(io, 1, 0, 8), patch)
const localWrite = (patch: Partial<LocalWrite> = {}): LocalWrite =>
  Object.assign(new LocalWrite(io, 1, 0, 8, undefined, false, false), patch)
const from = { sector: 0, blockIdHi: 0, blockIdLo: 1, flags: 0, sizeBytes: 4096 }
const epoch = { index: 0, count: 1, pending: 1, withdrawn: false, barrier: undefined, lost: false }
const peerWrite = (patch: Partial<PeerWrite> = {}): PeerWrite =>
  Object.assign(new PeerWrite(io, from, 4096, undefined, false, epoch), patch)
const peerRead = (): PeerRead => new PeerRead(io, 'data', from, undefined)
const resync = (patch: Partial<ResyncRequest> = {}): ResyncRequest => Object.assign(new ResyncRequest(io, 0, 8), patch)

const verify = (patch: Partial<VerifyRequest> = {}): VerifyRequest => Object.assign(new VerifyRequest(io, 0, 8), patch)
const answeredRead = Object.assign(new PeerRead(io, 'verify', from, undefined), { answered: true })

type Starting = Parameters<typeof mustWait>[0]
const STARTING: readonly Starting[] = [
  'local-read',
  'peer-read',
  'local-write',
  'peer-write',
  'resync-request',
  'resync-write',
  'verify-request',
  'verify-read',
]

/** What is in progress; who waits for it. */
const ROWS: readonly (readonly [string, Request, readonly Starting[]])[] = [
  ['a read at the own disk', localRead(), ['local-write', 'peer-write', 'resync-write']],
  ['a read that the peer answers', localRead({ remote: true }), []],
  [
    'a write at the own disk',
    localWrite({ started: true, localPending: true, peerPending: true }),
    ['local-read', 'peer-read', 'local-write', 'resync-request', 'resync-write', 'verify-request'],
  ],
  [
    'a write that is complete here, not on the peer',
    localWrite({ started: true, peerPending: true }),
    ['local-read', 'peer-read', 'local-write', 'resync-request', 'resync-write', 'verify-request'],
  ],
  [
    'a write that was not begun, because it waits for a lock',
    localWrite(),
    ['local-write', 'resync-request', 'resync-write', 'verify-request'],
  ],
  ['a write of the peer that waits', peerWrite(), ['local-read', 'peer-read', 'local-write', 'verify-read']],
  [
    'a write of the peer at the disk',
    peerWrite({ submitted: true }),
    [
      'local-read',
      'peer-read',
      'local-write',
      'peer-write',
      'resync-request',
      'resync-write',
      'verify-request',
      'verify-read',
    ],
  ],
  [
    'one that asked first, applied here and not known to be on the peer',
    peerWrite({ submitted: true, applied: true }),
    ['local-read', 'peer-read'],
  ],
  ['a read for the peer', peerRead(), ['local-write', 'peer-write', 'resync-write']],
  ['a resync request without an answer', resync(), ['local-write', 'resync-request', 'verify-request']],
  [
    'a resync answer at the disk',
    resync({ answered: true, writing: true }),
    ['local-read', 'peer-read', 'local-write', 'peer-write', 'resync-request', 'verify-request'],
  ],
  [
    'a resync request whose checksum is being read',
    resync({ checksumming: true }),
    ['local-write', 'peer-write', 'resync-request', 'verify-request'],
  ],
  ['a verified block that the peer was told the digest of', answeredRead, ['local-write', 'resync-write']],
  ['a block that the peer was asked the digest of', verify(), ['local-write']],
  ['the same, being read here', verify({ reading: true }), ['local-write', 'peer-write', 'resync-write']],
]

describe('mustWait', () => {
  for (const [name, present, waiting] of ROWS) {
    it(name, () => {
      for (const starting of STARTING)
        assert.equal(mustWait(starting, present, true), waiting.includes(starting), `${starting} waits`)
    })
  }

  it('a resync answer that waits for the disk: a write sent after it must not be applied before it (8.4)', () => {
    const present = resync({ answered: true })
    assert.equal(mustWait('peer-write', present, true), true)
    assert.equal(mustWait('local-read', present, true), true)
  })

  it('without the read rule a read waits for the disk only', () => {
    assert.equal(mustWait('local-read', localWrite({ started: true, peerPending: true }), false), false)
    assert.equal(mustWait('local-read', localWrite({ started: true, localPending: true }), false), true)
  })
})
