// A client's end of an NBD session without any codec of ours: bytes made and read by hand, so that a mistake in our
// codecs cannot hide behind itself.

import assert from 'node:assert/strict'
import { NbdSession, type NbdSessionOptions } from '../../src/nbd/session.ts'

export const OPTS_MAGIC = Buffer.from('IHAVEOPT')

export interface Reply {
  readonly structured: boolean
  readonly cookie: bigint
  /** Of a simple reply. */
  readonly error: number
  /** Of a chunk. */
  readonly flags: number
  readonly type: number
  readonly payload: Buffer
}

export interface OptionReply {
  readonly option: number
  readonly type: number
  readonly data: Buffer
}

export class HandMadePeer {
  readonly session: NbdSession
  /** What the session sent and was not looked at yet. */
  received = Buffer.alloc(0)
  /** Chunks of each `send`. */
  readonly sends: Uint8Array[][] = []
  closed = false
  wantedFlushes = 0
  queuedBytes = 0

  constructor(options: Omit<NbdSessionOptions, 'out'>) {
    const peer = this
    this.session = new NbdSession({
      ...options,
      out: {
        send: (chunks) => {
          assert.equal(peer.closed, false, 'sent after close')
          assert.ok(chunks.length > 0)
          peer.sends.push([...chunks])
          peer.received = Buffer.concat([peer.received, ...chunks])
        },
        get queuedBytes() {
          return peer.queuedBytes
        },
        wantsFlush: () => {
          peer.wantedFlushes += 1
        },
        close: () => {
          assert.equal(peer.closed, false, 'closed twice')
          peer.closed = true
        },
      },
    })
    this.session.start()
  }

  /** Bytes to the session as one chunk of their own, and the end of the turn. */
  push(...parts: Uint8Array[]): this {
    this.session.onData(new Uint8Array(Buffer.concat(parts)))
    return this.turn()
  }

  /** The same, one byte at a time. */
  pushBytewise(...parts: Uint8Array[]): this {
    for (const byte of Buffer.concat(parts)) this.session.onData(new Uint8Array([byte]))
    return this.turn()
  }

  turn(): this {
    this.session.flushOutput()
    return this
  }

  take(lengthBytes: number): Buffer {
    assert.ok(this.received.length >= lengthBytes, `${lengthBytes} bytes wanted, ${this.received.length} are there`)
    const taken = this.received.subarray(0, lengthBytes)
    this.received = this.received.subarray(lengthBytes)
    return taken
  }

  takeGreeting(): void {
    this.turn()
    assert.equal(this.take(18).toString('hex'), `${Buffer.from('NBDMAGICIHAVEOPT').toString('hex')}0003`)
  }

  takeOptionReply(): OptionReply {
    const header = this.take(20)
    assert.equal(header.subarray(0, 8).toString('hex'), '0003e889045565a9')
    return { option: header.readUInt32BE(8), type: header.readUInt32BE(12), data: this.take(header.readUInt32BE(16)) }
  }

  /** `dataBytes`: data that follows a simple reply without error. */
  takeReply(dataBytes = 0): Reply {
    const magic = this.received.readUInt32BE(0)
    if (magic === 0x67446698) {
      const header = this.take(16)
      const error = header.readUInt32BE(4)
      const payload = this.take(error === 0 ? dataBytes : 0)
      return { structured: false, cookie: header.readBigUInt64BE(8), error, flags: 1, type: 0, payload }
    }
    assert.equal(magic, 0x668e33ef)
    const header = this.take(20)
    return {
      structured: true,
      cookie: header.readBigUInt64BE(8),
      error: 0,
      flags: header.readUInt16BE(4),
      type: header.readUInt16BE(6),
      payload: this.take(header.readUInt32BE(16)),
    }
  }

  /** The next reply must be an error: its number, whichever way it was sent. */
  takeError(cookie: bigint): number {
    const reply = this.takeReply()
    assert.equal(reply.cookie, cookie)
    if (!reply.structured) return reply.error
    assert.equal(reply.type, 0x8001)
    assert.equal(reply.flags, 1)
    assert.equal(reply.payload.readUInt16BE(4), reply.payload.length - 6)
    return reply.payload.readUInt32BE(0)
  }

  /** Handshake up to transmission. */
  enter(how: { structured?: boolean; context?: boolean; name?: string } = {}): this {
    const name = how.name ?? ''
    this.takeGreeting()
    this.push(u32(3))
    if (how.structured === true) {
      this.push(option(8))
      assert.equal(this.takeOptionReply().type, 1)
    }
    if (how.context === true) {
      this.push(option(10, counted(name), u32(1), counted('base:allocation')))
      assert.equal(this.takeOptionReply().type, 4)
      assert.equal(this.takeOptionReply().type, 1)
    }
    this.push(option(7, counted(name), u16(0)))
    while (this.takeOptionReply().type !== 1);
    assert.equal(this.received.length, 0)
    return this
  }
}

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(value)
  return bytes
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

export const counted = (text: string): Buffer => Buffer.concat([u32(Buffer.byteLength(text)), Buffer.from(text)])

export function option(number: number, ...data: Uint8Array[]): Buffer {
  const all = Buffer.concat(data)
  return Buffer.concat([OPTS_MAGIC, u32(number), u32(all.length), all])
}

export interface HandMadeRequest {
  readonly type: number
  readonly flags?: number
  readonly cookie?: bigint
  readonly offset?: number | bigint
  readonly length?: number
}

export function request(fields: HandMadeRequest): Buffer {
  return Buffer.concat([
    u32(0x25609513),
    u16(fields.flags ?? 0),
    u16(fields.type),
    u64(fields.cookie ?? 0n),
    u64(fields.offset ?? 0),
    u32(fields.length ?? 0),
  ])
}
