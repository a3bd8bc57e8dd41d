// Mistakes that the order of arbitration, and everything that no order changes, could have. The other orders have a file of
// their own each (see catalogue.ts).

import { foundBy, foundExploring, type Mutant, mutant } from './mutant.ts'

const ORDER = 'engine/order/arbitration.ts'
const REQUESTS = 'engine/requests.ts'
const WRITES = 'engine/volume-io.ts'
const FLUSHES = 'engine/flushes.ts'
const PEER = 'engine/peer-io.ts'
const VOLUME = 'engine/volume.ts'
const STORE = 'engine/metadata-store.ts'
const RESYNC = 'engine/resync.ts'
const LOG = 'engine/activity.ts'
const ENGINE = 'engine/engine.ts'

const conflicts: readonly Mutant[] = [
  mutant(
    'no-sequence-wait',
    'a write that has overtaken an acknowledgement is applied at once',
    'engine/packet-router.ts',
    'this.#engine.settings.allowTwoPrimaries && newer(sequence - 1, highest)',
    'this.#engine.settings.allowTwoPrimaries && sequence < 0',
  ),
  mutant(
    'wrong-winner',
    'the host without the flag judges',
    ORDER,
    'peerPending && holdsFlag)',
    'peerPending && !holdsFlag)',
  ),
  mutant(
    'both-supersede',
    'both hosts judge',
    ORDER,
    'if (own.peerPending && holdsFlag) return',
    'if (own.peerPending) return',
  ),
  foundExploring(
    'two-writes-partial',
    mutant(
      'superseded-if-overlapping',
      'a write that overlaps only in part is superseded instead of sent again',
      ORDER,
      "contains(own, incoming) && !isFua(incoming) ? 'superseded' : 'retry'",
      "!isFua(incoming) ? 'superseded' : 'retry'",
    ),
  ),
  foundBy(
    'superseded-writes-are-stable',
    mutant(
      'superseded-with-fua',
      'a write with FUA is superseded by one that is not stable',
      ORDER,
      '&& !isFua(incoming)',
      '',
    ),
  ),
  foundBy(
    'superseded-writes-are-stable',
    mutant(
      'flush-without-the-winner',
      'a flush of the peer does not wait for the write that stands for a superseded one',
      PEER,
      '[...this.pending, ...this.#winners]',
      '[...this.pending]',
    ),
  ),
  foundBy(
    'source-that-does-not-know-that-its-target-is-done',
    mutant(
      'target-counts-as-inconsistent',
      'the source of a resync goes on alone though its target may be done',
      'engine/volume.ts',
      'const leavesTarget = patch.conn !== undefined',
      'const leavesTarget = patch.conn === -1',
    ),
  ),
  foundBy(
    'outdated-target-of-a-source-that-crashed',
    mutant(
      'outdated-wins-after-two-crashes',
      'an Outdated disk may be the source if both hosts had crashed',
      'engine/generations.ts',
      'if (rule < 40 || rule > 43)',
      'if (rule < 42 || rule > 43)',
    ),
  ),
  foundBy(
    'block-ids-of-a-process-that-has-crashed',
    mutant(
      'applied-writes-of-another-process',
      'a write in doubt counts as applied because one of an earlier process of the peer had its block id',
      'engine/connection.ts',
      'if (known.instance !== instance)',
      'if (known.bootId !== bootId)',
    ),
  ),
  foundBy(
    'source-disk-lost-as-a-write-is-on-its-way-to-the-target',
    mutant(
      'target-alone-counts',
      'a write is done that only the target of a resync has, whose source has lost its disk',
      VOLUME,
      'return conn !== C_CONNECTED || disk === D_UPTODATE || pdsk === D_UPTODATE',
      'return conn !== 0 || disk === D_UPTODATE || pdsk === D_UPTODATE',
    ),
  ),
  foundBy(
    'answered-before-the-target-of-a-full-sync-has-begun',
    mutant(
      'source-does-not-await-its-target',
      'the source of a resync answers writes before it is known that its target has begun',
      VOLUME,
      'return this.mayWriteAlone && !this.io.resync.awaitsTarget',
      'return this.mayWriteAlone',
    ),
  ),
  foundBy(
    'parked-write-when-the-peer-is-back-without-its-disk',
    mutant(
      'parked-write-is-written-again',
      'a write that waited for the peer is executed once more when that is back without its disk',
      VOLUME,
      'const goesOnAlone = disk === D_UPTODATE && pdsk < D_INCONSISTENT',
      'const goesOnAlone = disk === D_UPTODATE && pdsk < 0',
    ),
  ),
  foundBy(
    'secondary-whose-lost-disk-was-newer',
    mutant(
      'lost-disk-forgotten',
      'a host without a disk takes data for good from which the ones that it has lost had gone on',
      'engine/negotiation.ts',
      'pdsk: isKnownOld ? D_OUTDATED : real',
      'pdsk: isKnownOld && real < 0 ? D_OUTDATED : real',
    ),
  ),
  foundBy(
    'older-disk-meets-a-peer-that-attaches-a-newer-one',
    mutant(
      'attaching-peer-has-nothing-newer',
      'a Consistent disk is UpToDate as soon as the peer says that it has no disk yet',
      'engine/state-rules.ts',
      'return !peerConnected || (peer !== R_PRIMARY && pdsk === D_ATTACHING)',
      'return !peerConnected || (peer !== R_PRIMARY && pdsk > D_ATTACHING)',
    ),
  ),
  mutant(
    'late-own-disk-forgotten',
    'a write of the peer does not wait for an older own one that the peer has already',
    ORDER,
    "if (own.peerPending || own.localPending) verdict = 'wait'",
    "if (own.peerPending) verdict = 'wait'",
  ),
  mutant(
    'postponed-not-restarted',
    'a write that was told to come again is not sent again when the winner is applied',
    ORDER,
    'else if (own.postponed) incoming.restartOverlapping = true',
    'else if (own.postponed && own.completed) incoming.restartOverlapping = true',
  ),
  {
    name: 'retry-owed-ignored',
    what: 'the winner of a conflict leaves no room for the write that it told to come again',
    edits: [
      {
        file: WRITES,
        find: 'for (const range of this.owed) if (overlaps(range, request)) return true',
        replace: 'for (const range of this.owed) if (overlaps(range, request)) return false',
      },
    ],
    by: { scenario: 'loser-of-a-hot-conflict-gets-through' },
  },
  mutant(
    'overlapping-local-writes',
    'local writes that overlap are at the disk together',
    REQUESTS,
    "return present.kind !== 'peer-write' || !present.applied",
    "return present.kind !== 'local-write' && (present.kind !== 'peer-write' || !present.applied)",
  ),
]

const reads: readonly Mutant[] = [
  mutant(
    'read-rule-off',
    'a read does not wait for an own write that the peer has not acknowledged',
    REQUESTS,
    "if (present.kind === 'local-write') return present.started && (readRule || present.localPending)",
    "if (present.kind === 'local-write') return present.localPending",
  ),
  mutant(
    'source-reads-beside-writes',
    "the source's read for a resync does not wait for writes",
    REQUESTS,
    "    case 'local-read':\n    case 'peer-read':\n",
    "    case 'peer-read':\n      return false\n    case 'local-read':\n",
  ),
  mutant(
    'target-reads-stale-blocks',
    'the target of a resync reads blocks that are out of sync from its own disk',
    VOLUME,
    'return this.#bitmap !== undefined && !this.#bitmap.anySet(from, to)',
    'return this.#bitmap !== undefined && !this.#bitmap.anySet(from, from + (to < 0 ? 1 : 0))',
  ),
]

const acknowledgements: readonly Mutant[] = [
  mutant(
    'ack-before-local-write',
    'the client is answered when the peer has the write, the own disk or not',
    WRITES,
    'if (write.localPending || write.peerPending || write.postponed || write.completed) return',
    'if ((write.localPending && !write.onPeer) || write.peerPending || write.postponed || write.completed) return',
  ),
  mutant(
    'ack-before-peer',
    'the client is answered when the own disk has the write',
    WRITES,
    'if (write.localPending || write.peerPending || write.postponed || write.completed) return',
    'if (write.localPending || write.postponed || write.completed) return',
  ),
  {
    name: 'peer-ack-before-disk',
    what: 'a write of the peer is acknowledged when it is submitted to the disk',
    edits: [
      {
        file: PEER,
        find: '    write.submitted = true\n',
        replace: '    write.submitted = true\n    this.#acknowledge(write)\n',
      },
      {
        file: PEER,
        find: '      else this.#acknowledge(write)\n    }\n    this.#finish(write)',
        replace: '    }\n    this.#finish(write)',
      },
    ],
  },
  mutant(
    'barrier-ack-too-early',
    'a barrier is acknowledged when it arrives, not when its writes are at the disk',
    'engine/epochs.ts',
    'epoch !== undefined && epoch.pending === 0; epoch',
    'epoch !== undefined && epoch.pending >= 0; epoch',
  ),
  {
    name: 'flush-without-peer',
    what: "a flush is answered without the peer's",
    edits: [
      {
        file: FLUSHES,
        find: 'if (this.#localPending || this.#peerCookie !== 0 || !this.#roundRunning) return',
        replace: 'if (this.#localPending || !this.#roundRunning) return',
      },
      {
        file: FLUSHES,
        find: 'if (flush.id < 0 || (this.#onPeer &&',
        replace: 'if (flush.id < 0 || this.#peerCookie !== 0 || (this.#onPeer &&',
      },
    ],
  },
  foundBy(
    'power-cut-right-after-a-flush',
    mutant(
      'flush-without-own-disk',
      "a flush is answered without the own disk's",
      FLUSHES,
      'if (this.#localPending || this.#peerCookie !== 0 || !this.#roundRunning) return',
      'if (this.#peerCookie !== 0 || !this.#roundRunning) return',
    ),
  ),
  foundBy(
    'superseded-writes-are-stable',
    mutant(
      'peer-flush-before-writes',
      'a flush of the peer does not wait for the writes received before it',
      PEER,
      'new PeerFlush(this, packet, epoch, new Set([...this.pending, ...this.#winners]))',
      'new PeerFlush(this, packet, epoch, new Set())',
    ),
  ),
  mutant(
    'fua-not-flushed-by-peer',
    'a FUA write of the peer is acknowledged without a flush',
    PEER,
    '(write.flags & (DP_FUA | DP_FLUSH)) !== 0 && !write.flushing',
    '(write.flags & DP_FLUSH) !== 0 && !write.flushing',
  ),
  mutant(
    'fua-not-flushed-locally',
    'a FUA write is answered without a flush of the own disk',
    WRITES,
    'if (error === undefined && write.fua && !write.localFlushing) {',
    'if (error === undefined && write.fua && write.id < 0 && !write.localFlushing) {',
  ),
  foundBy(
    'write-in-doubt-that-was-applied',
    mutant(
      'in-doubt-denied',
      'a host that is asked which writes in doubt it applied says: none',
      PEER,
      'payload: encodeCookies(this.#applied.among(asked)),',
      'payload: encodeCookies(this.#applied.among(asked).slice(asked.length)),',
    ),
  ),
  foundBy(
    'write-in-doubt-that-was-applied',
    mutant(
      'in-doubt-not-asked',
      'all writes in doubt are sent again without asking',
      VOLUME,
      'if (asks && this.engine.connection.coprimePeer) this.io.askInDoubt()',
      'if (asks && this.state.conn < 0 && this.engine.connection.coprimePeer) this.io.askInDoubt()',
    ),
  ),
]

const coverage: readonly Mutant[] = [
  {
    name: 'log-after-data',
    what: 'a write does not wait for its activity-log block',
    edits: [
      {
        file: STORE,
        find: "        steps.push({ kind: 'flush-meta' })\n        return steps\n      },\n      done: [done],",
        replace:
          "        steps.push({ kind: 'flush-meta' })\n        done(undefined)\n        return steps\n      },\n      done: [],",
      },
    ],
  },
  mutant(
    'log-not-flushed',
    'no flush after an activity-log block',
    STORE,
    "data: block() })\n        steps.push({ kind: 'flush-meta' })\n",
    'data: block() })\n',
  ),
  foundBy(
    'activity-log-turnover-and-the-end-of-a-host-alone',
    mutant(
      'evicted-bitmap-not-written',
      'the log forgets an extent whose changed bitmap block is not on disk',
      STORE,
      'evictedBlocks.filter((index) => bitmap.blockIsDirty(index))',
      'evictedBlocks.filter((index) => index < 0 && bitmap.blockIsDirty(index))',
    ),
  ),
  foundBy(
    'log-forgets-the-extent-of-a-slow-write',
    mutant(
      'evicted-data-not-flushed',
      'the log forgets an extent whose data are in the cache only',
      STORE,
      'if (steps.length === 0 && evictedBlocks.length > 0) {',
      'if (steps.length === 0 && evictedBlocks.length < 0) {',
    ),
  ),
  foundBy(
    'log-forgets-the-extent-of-a-slow-write',
    mutant(
      'stable-generation-forgotten',
      'the log forgets an extent before the peer has flushed it',
      LOG,
      '        (this.#generation[slot] as number) <= this.#host.stableGeneration &&\n',
      '',
    ),
  ),
  foundBy(
    'activity-log-turnover',
    mutant(
      'log-forgets-extents-in-use',
      'the log forgets an extent that a write is under way in',
      LOG,
      '        this.#references[slot] === 0 &&\n',
      '',
    ),
  ),
  mutant(
    'recovery-ignores-log',
    'the log of a crashed Primary is not applied at attach',
    'meta/apply-al.ts',
    'wasPrimary && found.hotExtents.length > 0',
    'wasPrimary && found.hotExtents.length > 1_000_000',
  ),
  mutant(
    'bits-not-set-when-peer-is-lost',
    'what the peer may not have flushed is not marked out of sync when it is lost',
    VOLUME,
    'const marked = this.stability?.peerLost(this.#bitmap) ?? 0',
    'const marked = this.stability?.peerLost(new Bitmap(this.#bitmap.bits)) ?? 0',
  ),
  mutant(
    'alone-not-marked',
    'a write that only this host has is not marked out of sync',
    WRITES,
    '    else {\n      volume.bitmap?.set(fromBit, toBit)\n      if (volume.sendsOutOfSync) {',
    '    else {\n      if (volume.sendsOutOfSync) {',
  ),
  foundBy(
    'suspended-until-the-disk-is-back',
    mutant(
      'out-of-sync-not-told',
      'the target is not told of writes between the bitmap exchange and the resync',
      WRITES,
      'if (volume.sendsOutOfSync) {',
      'if (volume.sendsOutOfSync && toBit < 0) {',
    ),
  ),
  mutant(
    'only-copy-not-marked',
    'a write of a diskless peer is not marked out of sync',
    PEER,
    'if (write.onlyCopy) volume.markOutOfSync(write.sector, write.sectors)\n',
    '\n',
  ),
  foundBy(
    'demotion-waits-for-writes-at-the-log',
    mutant(
      'demotion-forgets-writes',
      'a demotion does not wait for the writes in progress',
      WRITES,
      '      this.#ownActive === 0 &&\n      this.#held',
      '      this.#held',
    ),
  ),
]

const resync: readonly Mutant[] = [
  {
    name: 'bit-cleared-early',
    what: 'the target acknowledges a block, and both clear its bit, when its write is submitted',
    edits: [
      {
        file: RESYNC,
        find: '    request.data = undefined\n    if (data !== undefined)\n',
        replace:
          "    request.data = undefined\n    const [from, to] = blocksTouched(request.sector, request.sectors)\n    volume.engine.connection.sendMeta(this.#resyncAck('P_RS_WRITE_ACK', request))\n    volume.bitmap?.clear(from, to)\n    this.#requests.delete(request)\n    this.#requests.add(request)\n    if (data !== undefined)\n",
      },
    ],
    by: { scenario: 'bitmaps-are-written-back-during-a-slow-resync' },
  },
  mutant(
    'resync-overwrites-newer-write',
    'a write of the peer does not wait for older resync data that is to be written',
    REQUESTS,
    "if (present.kind === 'resync-request') return present.answered || present.checksumming\n",
    "if (present.kind === 'resync-request') return present.checksumming\n",
  ),
  foundBy(
    'bitmaps-are-written-back-during-a-slow-resync',
    mutant(
      'merged-bitmap-not-durable',
      'the target does not wait until the merged bitmap is on disk',
      RESYNC,
      "    volume.store?.writeBitmap(bitmap, 'changed', (error) => {\n      if (error !== undefined || session",
      '    void ((then: (error: DiskError | undefined) => void) => then(undefined))((error) => {\n      if (error !== undefined || session',
    ),
  ),
]

const generations: readonly Mutant[] = [
  {
    name: 'uuid-not-rotated',
    what: 'a host goes on alone without a new generation',
    edits: [
      {
        file: VOLUME,
        find: 'this.setUuids(newCurrent(this.uuids, this.engine.entropy.u64(), this.state.role === R_PRIMARY))\n',
        replace: 'void newCurrent\n',
      },
      {
        file: VOLUME,
        find: 'return this.uuids.bitmap !== 0n || this.state.pdsk <= D_INCONSISTENT || this.state.conn === C_AHEAD\n  }\n',
        replace: 'return true\n  }\n',
      },
    ],
  },
  {
    name: 'generation-not-durable',
    what: 'a host goes on alone before its superblock says so',
    edits: [
      { file: VOLUME, find: '    this.#gates++\n', replace: '' },
      { file: VOLUME, find: '      if (error === undefined) this.#gates--\n', replace: '      void error\n' },
    ],
    by: { scenario: 'crash-right-after-going-on-alone' },
  },
  foundBy(
    'disk-of-a-diskless-primary-comes-back',
    mutant(
      'diskless-primary-same-generation',
      'a peer without a disk becomes Primary, and no new generation begins',
      VOLUME,
      'lostPeerData(old.pdsk, next.pdsk) || isNewWriterHere(old, next)',
      'lostPeerData(old.pdsk, next.pdsk) || (next.pdsk < 0 && isNewWriterHere(old, next))',
    ),
  ),
  mutant(
    'fencing-not-awaited',
    'I/O is not frozen while the peer is being fenced',
    VOLUME,
    'return this.state.susp || this.state.suspNod || this.state.suspFen\n  }',
    'return this.state.susp || this.state.suspNod\n  }',
  ),
  mutant(
    'failed-fencing-counts',
    'a fence-peer handler that failed counts as success',
    'engine/fencing-finding.ts',
    '    case 4:\n    case 7:\n',
    '    case 1:\n    case 4:\n    case 7:\n',
  ),
  mutant(
    'crashed-primary-wins',
    'the host that crashed is the source, not the survivor',
    'engine/generations.ts',
    'return selfPrimary === peerPrimary ? input.peerCrashedPrimary : selfPrimary',
    'return selfPrimary === peerPrimary ? input.selfCrashedPrimary : selfPrimary',
  ),
  foundBy(
    'fencing-agent-speaks-of-an-earlier-loss',
    mutant(
      'stale-fencing-result',
      'what a handler found out of an earlier loss is taken for the present one',
      ENGINE,
      'if (this.#lossFenced !== this.#losses && lost) {',
      'if (this.#lossFenced < 0 && lost) {',
    ),
  ),
]

export const arbitrationMutants: readonly Mutant[] = [
  ...conflicts,
  ...reads,
  ...acknowledgements,
  ...coverage,
  ...resync,
  ...generations,
]
