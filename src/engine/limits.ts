// Every bound and time-out of the engine that is not an option of the administrator, with its unit and reason.

import { assert } from '../base/assert.ts'
import { KIB, MIB } from '../base/units.ts'

/** Versions spoken (wire-protocol.md 3.2). */
export const PROTOCOL_MIN = 86
export const PROTOCOL_MAX = 101

/** Largest data payload of one write or reply at protocol 100 and above (2.5). Larger requests are cut by the runtime. */
export const REQUEST_BYTES_MAX = MIB
/** Largest zero or discard request sent as one packet: 32 extents, so that it fits into one log transaction. */
export const ZERO_BYTES_MAX = 128 * MIB
/** The same without the FF_WSAME feature (wire-protocol.md 2.5). */
export const ZERO_BYTES_MAX_OLD_PEER = 4 * MIB

/** Pause after a failed handshake before the next attempt (1.6). */
export const RECONNECT_PAUSE_MS = 1000
/** After a handshake that ends StandAlone the streams stay open so long, for the peer to come to the same end. */
export const PARTING_MS = 2000
/** Pause after an established connection broke (13: "about 20 ms"). */
export const RECONNECT_AFTER_LOSS_MS = 20

/**
 * Silence of the data stream while the answer to something other than a write is due, below which ko-count x timeout does
 * not go: a block of resync data of 1 MiB takes its time on a slow line.
 */
export const SILENT_STREAM_MS = 10_000

/**
 * A write acknowledged by the peer may still be in its disk cache: the peer is told to flush this long after it, by when
 * its operating system has written most of it by itself (Linux: after 30 s); an earlier flush would only compete with the
 * clients for the disk. What was not flushed is resynced if the peer is lost.
 */
export const PEER_FLUSH_INTERVAL_MS = 30_000
/** And after so many writes: the peer remembers each of them until then (in-doubt.ts). */
export const PEER_FLUSH_WRITES_MAX = 262_144

/** Changed bitmap blocks go to disk at most this often while a resync runs (metadata.md 8). */
export const BITMAP_WRITEBACK_MS = 2000

/** Resync data in flight without and with application I/O beside it. */
export const RESYNC_WINDOW_BYTES = 8 * MIB
export const RESYNC_WINDOW_BUSY_BYTES = 512 * KIB
/** Dynamic resync rate (resync-pacer.ts): the smallest window and request; delays below are noise; how long a rate is measured. */
export const PACE_BYTES_MIN = 32 * KIB
export const PACE_DELAY_MS_MIN = 1
export const PACE_SLOT_MS = 500
/** A client that asks for something now and then is at work in between: the window would be full when it comes again. */
export const PACE_BESIDE_MS = 500
/** One checksum covers so much at most: the smaller, the less is transferred for one block that differs. */
export const CHECKSUM_BYTES_MAX = 32 * KIB
/** How long after an application request the disk counts as busy. */
export const RESYNC_BUSY_MS = 50
/** A verify compares so much at a time: one bit of the bitmap, by which the peer counts results (wire-protocol.md 8.10). */
export const VERIFY_BLOCK_SECTORS = 8
/** Blocks of a verify under way without and with application I/O beside it. */
export const VERIFY_WINDOW_BLOCKS = 256
export const VERIFY_WINDOW_BUSY_BLOCKS = 16
/** Requests of one resync never cross this border (wire-protocol.md 8.3). */
export const RESYNC_EXTENT_SECTORS = (16 * MIB) / 512

/** How long the winner of a conflict leaves way for the write that it told to retry. */
export const RETRY_OWED_MS = 1000

/**
 * How long a lock is kept although the peer wants it, in round trips of the request for it: a turn costs one or two, so nine
 * tenths of the time are work. Within these bounds.
 */
export const LOCK_HOLD_ROUND_TRIPS = 10
export const LOCK_HOLD_MS_MIN = 1
export const LOCK_HOLD_MS_MAX = 50

/** `auto`: an extent that changes hands so often, each time within the window of the last one, is contested. */
export const AUTO_HANDOVERS = 2
export const AUTO_WINDOW_MS = 1000
/** And locked again when only the peer has written in it for so long: longer than the window, lest it swings. */
export const AUTO_IDLE_MS = 1500
/**
 * Contested extents are shared, or locked by turns: what gets more writes done, is tried (order/contest.ts). A sample is so
 * long, after a moment for the change; many turns even of a slow link.
 */
export const CONTEST_SAMPLE_MS = 200
export const CONTEST_SETTLE_MS = 50
/** Without a meeting of the hosts for so long the contest is over, and samples of it mean nothing. */
export const CONTEST_GAP_MS = 1_000
/** Fewer writes in a sample: the clients have nothing to do that one way could do faster. */
export const CONTEST_WRITES_MIN = 20
/** To take turns has to be so much better, in percent: clients wait longer then. */
export const CONTEST_BETTER_PERCENT = 5
/** Pause between trials; twice as long after each trial that changed nothing. */
export const CONTEST_REST_MS_MIN = 2_000
export const CONTEST_REST_MS_MAX = 32_000
/** Extents whose last hand-overs are remembered; then counting begins anew. */
export const AUTO_MEMORY_EXTENTS_MAX = 65_536

/** How long a kernel is given to finish writes that were superseded, before their epoch is acknowledged (barrier-acks.ts). */
export const BARRIER_ACK_DELAY_MS = 1000

/** A write that a kernel told us to send again, and whose conflict is over already, is sent again after so long. */
export const RETRY_ALONE_MS = 1000

/** Ahead of a congested peer: how often is looked whether all is acknowledged, and how long it must have been (8.11). */
export const AHEAD_POLL_MS = 100
export const AHEAD_REST_MS = 1000

/** Writes of the peer waiting to be applied, in bytes: above it the data stream is not read. */
export const PEER_BYTES_MAX = 64 * MIB

/** Handler that is to make sure that a lost peer writes no more (config-and-tools.md 1.8). */
export const FENCE_HANDLER_NAME = 'fence-peer'

assert(AUTO_IDLE_MS > AUTO_WINDOW_MS, 'an extent is not taken back for what made it shared')
assert(CONTEST_GAP_MS > 2 * LOCK_HOLD_MS_MAX, 'hosts that take turns meet within the gap')
assert(LOCK_HOLD_MS_MIN <= LOCK_HOLD_MS_MAX, 'bounds of the hold of a lock')
assert(REQUEST_BYTES_MAX <= PEER_BYTES_MAX, 'one write must fit into the receive bound')
assert(RESYNC_WINDOW_BUSY_BYTES <= RESYNC_WINDOW_BYTES, 'a busy disk gets no larger window')

/** A size under the administrator's cap, 0 = none. */
export const capped = (sectors: number, cap: number): number => (cap > 0 ? Math.min(cap, sectors) : sectors)
