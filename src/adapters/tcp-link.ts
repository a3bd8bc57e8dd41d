// The Link port on a TCP socket of Node.js.
//
// Sending: chunks are gathered until the end of the turn (turn-end.ts) and leave through cork/uncork, which is one writev;
// copying them into one buffer first was slower for all but the smallest. At most WRITE_BYTES_MAX are with the socket at a
// time, so that `queuedBytes` follows what the operating system really took.
//
// Receiving: with `onread` the kernel writes where the handler wants it, or else into a buffer of our own: no copy, no
// allocation per read (10 % less processor time per 4 KiB frame than `data` events).

import net from 'node:net'

import { assert } from '../base/assert.ts'
import { KIB, MIB } from '../base/units.ts'
import type { Link, LinkHandler } from '../runtime/ports.ts'
import { runAtTurnEnd, type TurnEndTask } from './turn-end.ts'

const OWN_BYTES = 64 * KIB
/** Gathered so much, it leaves without waiting for the end of the turn. */
const EARLY_BYTES = 256 * KIB
const WRITE_BYTES_MAX = MIB
/** After a close, the peer has this long to take the last bytes. */
const LINGER_MS = 1000

/** Hands the socket its read buffers. Made before the socket, because Node.js wants it in the socket's constructor. */
export class ReadBuffers {
  readonly onread: { readonly buffer: () => Uint8Array; readonly callback: (readBytes: number) => boolean }
  /** Where the next read goes; undefined: into memory of our own. */
  target: () => Uint8Array | undefined = () => undefined
  /** So much was read into the last target. False: read no more for now. */
  onFilled: (readBytes: number) => boolean = () => false
  /** Read into our own memory, which is used again. False: read no more for now. */
  onData: (chunk: Uint8Array) => boolean = () => false
  #own: Uint8Array | undefined
  #direct = false

  constructor() {
    this.onread = {
      // Asked once at first and then after each read, when `callback` has returned.
      buffer: () => {
        const target = this.target()
        this.#direct = target !== undefined
        if (target !== undefined) return target
        this.#own ??= Buffer.allocUnsafeSlow(OWN_BYTES)
        return this.#own
      },
      callback: (readBytes) => {
        if (this.#direct) return this.onFilled(readBytes)
        return this.onData((this.#own as Uint8Array).subarray(0, readBytes))
      },
    }
  }
}

/**
 * An accepted socket, made to read into `buffers`. Node.js offers `onread` for outgoing sockets only; so the connection's handle
 * is moved into a socket that has it. Gives undefined if this Node.js is made otherwise: the socket is used as it is.
 */
export function adoptAccepted(accepted: net.Socket, buffers: ReadBuffers): net.Socket | undefined {
  const holder = accepted as unknown as { _handle: { useUserBuffer?: unknown } | null }
  const handle = holder._handle
  if (typeof handle?.useUserBuffer !== 'function') return undefined
  holder._handle = null
  const options = { handle, onread: buffers.onread, pauseOnCreate: true, readable: true, writable: true }
  return new net.Socket(options as net.SocketConstructorOpts)
}

export class TcpLink implements Link, TurnEndTask {
  readonly #socket: net.Socket
  #handler: LinkHandler | undefined
  #gathered: Uint8Array[] = []
  #gatheredBytes = 0
  #writingBytes = 0
  #taskSet = false
  #paused = false
  /** Read although paused, to be delivered before anything else: a copy, or so many bytes in the handler's target. */
  readonly #early: (Uint8Array | number)[] = []
  /** By our own `close`, or after the end was reported. */
  #closed = false
  /** Why the socket is gone, while the handler does not know it. */
  #endReason: string | undefined
  #ended = false

  /** `socket`: connected, paused, without listeners. Without `buffers`, its data comes as `data` events. */
  constructor(socket: net.Socket, buffers: ReadBuffers | undefined) {
    this.#socket = socket
    if (buffers === undefined) socket.on('data', (chunk) => this.#onData(chunk))
    else {
      buffers.target = () => (this.#early.length > 0 || this.#closed ? undefined : this.#handler?.target?.())
      buffers.onFilled = (readBytes) => this.#onFilled(readBytes)
      buffers.onData = (chunk) => this.#onData(chunk)
    }
    socket.pause()
    socket.on('error', (error) => this.#end(error.message))
    socket.on('end', () => this.#end('closed by peer'))
    socket.on('close', () => this.#end('closed'))
  }

  get queuedBytes(): number {
    return this.#gatheredBytes + this.#writingBytes
  }

  setHandler(handler: LinkHandler): void {
    this.#handler = handler
    if (this.#ended) this.#setTask()
    else if (!this.#paused) this.#resume()
  }

  send(chunks: readonly Uint8Array[]): void {
    if (this.#closed || this.#ended) return
    for (const chunk of chunks) {
      if (chunk.length === 0) continue
      this.#gathered.push(chunk)
      this.#gatheredBytes += chunk.length
    }
    if (this.#writingBytes > 0 || this.#gatheredBytes === 0) return // what is being written calls for more when it is done
    if (this.#gatheredBytes >= EARLY_BYTES) this.#write()
    else this.#setTask()
  }

  pauseReading(): void {
    this.#paused = true
    this.#socket.pause()
  }

  resumeReading(): void {
    this.#paused = false
    if (this.#handler !== undefined && !this.#closed && !this.#ended) this.#resume()
  }

  /**
   * What was sent in this turn still leaves, if the socket takes it: the answer to a peer that disconnects is sent right
   * before the stream is closed, and a kernel that does not get it waits in vain.
   */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    const mayLeave = this.#gatheredBytes > 0 && this.#writingBytes === 0 && !this.#ended
    if (mayLeave) this.#write()
    this.#forgetQueue()
    if (mayLeave) this.#destroySoon()
    else this.#socket.destroy()
  }

  #destroySoon(): void {
    const timer = setTimeout(() => this.#socket.destroy(), LINGER_MS)
    this.#socket.once('close', () => clearTimeout(timer))
    this.#socket.destroySoon()
  }

  onTurnEnd(): void {
    this.#taskSet = false
    if (this.#closed) return
    if (this.#ended) {
      this.#reportEnd()
      return
    }
    if (this.#writingBytes === 0) this.#write()
    if (this.#early.length > 0 && !this.#paused) this.#deliverEarly()
  }

  /** False: read no more for now. */
  #onData(chunk: Uint8Array): boolean {
    if (this.#closed) return false
    if (this.#paused) {
      // A stream that is resumed and paused within one turn still reads once.
      this.#early.push(new Uint8Array(chunk))
      return false
    }
    this.#handler?.onData(chunk)
    return !this.#paused && !this.#closed
  }

  #onFilled(readBytes: number): boolean {
    if (this.#closed) return false
    if (this.#paused) {
      this.#early.push(readBytes)
      return false
    }
    this.#handler?.onFilled?.(readBytes)
    return !this.#paused && !this.#closed
  }

  #deliverEarly(): void {
    while (this.#early.length > 0 && !this.#paused && !this.#closed) {
      const early = this.#early.shift() as Uint8Array | number
      if (typeof early === 'number') this.#handler?.onFilled?.(early)
      else this.#handler?.onData(early)
    }
    if (!this.#paused && !this.#closed) this.#socket.resume()
  }

  #resume(): void {
    if (this.#early.length === 0) this.#socket.resume()
    else this.#setTask()
  }

  #setTask(): void {
    if (this.#taskSet) return
    this.#taskSet = true
    runAtTurnEnd(this)
  }

  #write(): void {
    const chunks = this.#takeGathered()
    const last = chunks.length - 1
    if (last < 0) return
    if (last === 0) {
      this.#socket.write(chunks[0] as Uint8Array, this.#onWritten)
      return
    }
    this.#socket.cork()
    for (let i = 0; i < last; i++) this.#socket.write(chunks[i] as Uint8Array)
    this.#socket.write(chunks[last] as Uint8Array, this.#onWritten)
    this.#socket.uncork()
  }

  #takeGathered(): Uint8Array[] {
    const all = this.#gathered
    if (this.#gatheredBytes <= WRITE_BYTES_MAX) {
      this.#gathered = []
      this.#writingBytes = this.#gatheredBytes
      this.#gatheredBytes = 0
      return all
    }
    let count = 0
    let lengthBytes = 0
    while (count < all.length && (count === 0 || lengthBytes + (all[count] as Uint8Array).length <= WRITE_BYTES_MAX)) {
      lengthBytes += (all[count] as Uint8Array).length
      count++
    }
    this.#writingBytes = lengthBytes
    this.#gatheredBytes -= lengthBytes
    return all.splice(0, count)
  }

  /** All that was written is with the operating system. Never called inside `write`. */
  readonly #onWritten = (error?: Error | null): void => {
    if (this.#closed || this.#ended || error) return // an error comes as an event as well
    this.#writingBytes = 0
    if (this.#gatheredBytes > 0) this.#write()
    else this.#handler?.onDrain()
  }

  /** The first reason counts: an error is followed by `close`. */
  #end(reason: string): void {
    if (this.#closed || this.#ended) return
    this.#ended = true
    this.#endReason = reason
    this.#forgetQueue()
    this.#socket.destroy()
    if (this.#handler !== undefined) this.#reportEnd()
  }

  #reportEnd(): void {
    assert(this.#endReason !== undefined, 'a link ends with a reason')
    if (this.#handler === undefined) return
    this.#closed = true
    this.#handler.onClose(this.#endReason)
  }

  #forgetQueue(): void {
    this.#gathered = []
    this.#gatheredBytes = 0
    this.#writingBytes = 0
  }
}
