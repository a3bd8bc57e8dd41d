// Mistakes that the order of the coordinator could have: who writes when, what counts as an acknowledgement, and what becomes
// of writes that had asked when somebody is lost.

import { foundBy, foundExploring, type Mutant, mutant } from './mutant.ts'

const ORDER = 'engine/order/coordinator.ts'
const ASKED = 'engine/asked-writes.ts'
const PEER = 'engine/peer-io.ts'

const order: readonly Mutant[] = [
  mutant(
    'asked-writes-start-at-once',
    'the host that does not coordinate writes at once, like the coordinator',
    ORDER,
    'if (this.#host.peerMayWrite) return true',
    'if (this.#host.peerMayWrite) return false',
  ),
  {
    name: 'write-now-outside-the-data-stream',
    what: 'P_WRITE_NOW goes in the meta stream, where it overtakes the writes that come before it',
    edits: [
      {
        file: PEER,
        find: "volume.engine.connection.sendData({\n      type: 'P_WRITE_NOW',",
        replace: "volume.engine.connection.sendMeta({\n      type: 'P_WRITE_NOW',",
      },
      {
        file: 'engine/packet-router.ts',
        find: "      case 'P_DELAY_PROBE':\n        return\n      case 'P_RECV_ACK':",
        replace:
          "      case 'P_DELAY_PROBE':\n        return\n      case 'P_WRITE_NOW':\n        this.#onVolumePacket(packet)\n        return\n      case 'P_RECV_ACK':",
      },
    ],
  },
  foundExploring(
    'two-writes-equal',
    mutant(
      'write-now-position-ignored',
      'a write that was ordered does not wait for writes of the coordinator received before',
      ASKED,
      'write.orderedAt = this.#io.peer.nextPosition()',
      'write.orderedAt = 0',
    ),
  ),
  {
    name: 'later-write-of-the-coordinator-first',
    what: 'a write of the coordinator is written before an earlier one that was ordered and is not at the disk yet',
    edits: [
      {
        file: ORDER,
        find: 'return own.orderedAt < incoming.position',
        replace: 'return own.orderedAt > incoming.position',
      },
    ],
    by: { scenario: 'chains-of-overlapping-writes' },
  },
  mutant(
    'coordinator-does-not-wait',
    'a write that asks is ordered while an overlapping one of the coordinator is at the disk',
    ORDER,
    'goesFirst(own, incoming, this.#host.isTarget)) ? ',
    'own.sector < 0 && goesFirst(own, incoming, this.#host.isTarget)) ? ',
  ),
  foundBy(
    'promotion-meets-writes',
    mutant(
      'promotion-under-writes',
      'a host consents to the promotion of its peer while writes are under way that did not ask',
      ORDER,
      'this.#unordered.whenNone(consent)',
      'consent()',
    ),
  ),
]

const acknowledgements: readonly Mutant[] = [
  {
    name: 'coordinator-acks-before-disk',
    what: 'the coordinator acknowledges with P_WRITE_NOW, before its disk has the write',
    edits: [
      {
        file: PEER,
        find: 'if (write.asksFirst && !volume.engine.settings.order.writeNowAcks) this.#order(write, 0)',
        replace:
          'if (write.asksFirst && !volume.engine.settings.order.writeNowAcks) {\n      this.#order(write, 0)\n      this.#acknowledge(write)\n    }',
      },
      {
        file: PEER,
        find: '      else this.#acknowledge(write)\n    }\n    this.#finish(write)',
        replace: '      else if (!write.asksFirst) this.#acknowledge(write)\n    }\n    this.#finish(write)',
      },
    ],
    by: { scenario: 'both-hosts-die-at-an-answer' },
  },
  {
    name: 'write-now-acks-before-disk',
    what: 'with write-now-acks P_WRITE_NOW is sent when the write is submitted, and counts as the acknowledgement',
    edits: [
      {
        file: PEER,
        find: 'if (write.asksFirst && !volume.engine.settings.order.writeNowAcks) this.#order(write, 0)',
        replace: 'if (write.asksFirst) this.#order(write, volume.engine.settings.order.writeNowAcks ? NF_WRITTEN : 0)',
      },
      {
        file: PEER,
        find: '      else this.#acknowledge(write)\n    }\n    this.#finish(write)',
        replace:
          '      else if (!write.asksFirst || !volume.engine.settings.order.writeNowAcks) this.#acknowledge(write)\n    }\n    this.#finish(write)',
      },
    ],
    by: { scenario: 'both-hosts-die-at-an-answer-with-write-now-acks' },
  },
  foundBy(
    'acknowledged-and-held-up-here',
    mutant(
      'left-write-counts-as-done',
      'a write that the lost coordinator had acknowledged is answered, though the own disk does not have it yet',
      'engine/volume-io.ts',
      "if (write.here === 'left') this.#maybeWriteAlone(write)\n      return",
      "if (write.here === 'left' && !write.onPeer) this.#maybeWriteAlone(write)\n      if (write.here !== 'left' || !write.onPeer) return",
    ),
  ),
  mutant(
    'write-now-taken-for-ack',
    'P_WRITE_NOW counts as the acknowledgement whether it says so or not',
    ASKED,
    'return (nowFlags & NF_WRITTEN) === 0 || ',
    'return nowFlags < 0 || ',
  ),
  mutant(
    'write-now-and-ack',
    'with write-now-acks the write is acknowledged once more',
    PEER,
    'if (write.asksFirst && !write.ordered) this.#order(write, NF_WRITTEN)\n      else this.#acknowledge(write)',
    'if (write.asksFirst && !write.ordered) this.#order(write, NF_WRITTEN)\n      this.#acknowledge(write)',
  ),
  foundExploring(
    'write-of-b-equal-read-b-a',
    mutant(
      'coordinator-read-rule-off',
      'a read does not wait for an own write that the peer has not acknowledged',
      'engine/requests.ts',
      "if (present.kind === 'local-write') return present.started && (readRule || present.localPending)",
      "if (present.kind === 'local-write') return present.localPending",
    ),
  ),
  foundBy(
    'both-hosts-die-at-a-read',
    mutant(
      'read-before-own-word',
      'the coordinator lets a write that asked be read before it is on the disk of the host that asked',
      PEER,
      'if (this.#unconfirmed.get(write.blockIdLo) !== write) this.#io.release(write)',
      'this.#io.release(write)',
    ),
  ),
  foundBy(
    'both-hosts-die-at-a-read',
    mutant(
      'own-word-before-disk',
      'the host that asked says that the write is on its disk when it is told to write it',
      ASKED,
      '    this.order(write)\n    return (nowFlags',
      '    this.order(write)\n    this.onWrittenHere(write, false)\n    return (nowFlags',
    ),
  ),
]

const losses: readonly Mutant[] = [
  foundBy(
    'coordinator-without-a-disk',
    mutant(
      'refused-write-not-answered',
      'a coordinator without a disk refuses a write that asks without P_WRITE_NOW',
      PEER,
      'if ((packet.flags & DP_ASKS_FIRST) !== 0) this.#sendNow({ ...packet, epoch }, NF_ALONE)',
      'if ((packet.flags & DP_ASKS_FIRST) < 0) this.#sendNow({ ...packet, epoch }, NF_ALONE)',
    ),
  ),
  {
    name: 'order-mismatch-accepted',
    what: 'two hosts that order writes in different ways work together',
    edits: [
      {
        file: 'engine/order/agreement.ts',
        find: '  if (peerName !== own.name) {',
        replace: '  if (peerName !== own.name && peer !== undefined && peer.order < 0) {',
      },
      {
        file: 'engine/order/agreement.ts',
        find: "  if (own.name !== 'lock-extents') {",
        replace: "  if (own.name !== 'lock-extents' && peerName === own.name) {",
      },
      {
        file: 'engine/order/agreement.ts',
        find: "  if (own.name !== 'coordinator' && peer.extentBytes",
        replace: "  if (own.name !== 'coordinator' && peerName === own.name && peer.extentBytes",
      },
    ],
    by: { scenario: 'different-orders-are-refused' },
  },
]

export const coordinatorMutants: readonly Mutant[] = [...order, ...acknowledgements, ...losses]
