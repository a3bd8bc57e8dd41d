// The client's side of option haggling: structured replies, base:allocation, then GO (or EXPORT_NAME where the server does
// not know GO), one option after the other. Source: doc/proto.md, sections "Fixed newstyle negotiation", "Option types".

import {
  NBD_CONTEXT_BASE_ALLOCATION,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_NAME,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_GO,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_UNSUP,
  NBD_REP_FLAG_ERROR,
  NBD_REP_INFO,
  NBD_REP_META_CONTEXT,
} from '../../wire/nbd/constants.ts'
import {
  type BlockSize,
  decodeInfo,
  decodeMetaContext,
  decodeTextLeniently,
  EXPORT_NAME_REPLY_BYTES,
  EXPORT_NAME_ZEROES_BYTES,
  encodeClientFlags,
  encodeInfoRequest,
  encodeMetaContextRequest,
  encodeOption,
  encodeText,
  type OptionReplyHeader,
} from '../../wire/nbd/handshake.ts'
import { NbdProtocolError, NbdRefusedError } from './errors.ts'

/** What the client knows of the export when transmission begins. */
export interface NbdExportInfo {
  sizeBytes: number
  /** Transmission flags, NBD_FLAG_*. */
  flags: number
  /** undefined if the server did not say. */
  blockSize: BlockSize | undefined
  name: string | undefined
  description: string | undefined
  structuredReplies: boolean
  /** Id of base:allocation; undefined if the server does not have it. */
  allocationContextId: number | undefined
}

export interface NegotiationWishes {
  readonly exportName: string
  readonly structuredReplies: boolean
  /** Use the old option, which every server knows and which cannot say why it fails. */
  readonly oldExportName: boolean
}

export type ClientNegotiationStep = 'go on' | 'export-name' | 'done' | NbdProtocolError | NbdRefusedError

export class ClientNegotiation {
  readonly info: NbdExportInfo = {
    sizeBytes: 0,
    flags: 0,
    blockSize: undefined,
    name: undefined,
    description: undefined,
    structuredReplies: false,
    allocationContextId: undefined,
  }
  readonly #wishes: NegotiationWishes
  readonly #send: (bytes: Uint8Array) => void
  #noZeroes = false
  #hasExportInfo = false
  /** The option that waits for its reply. */
  #option = 0

  constructor(wishes: NegotiationWishes, send: (bytes: Uint8Array) => void) {
    this.#wishes = wishes
    this.#send = send
  }

  onGreeting(handshakeFlags: number | undefined): ClientNegotiationStep {
    if (handshakeFlags === undefined) return new NbdProtocolError('not the greeting of an NBD server (newstyle)')
    if ((handshakeFlags & NBD_FLAG_FIXED_NEWSTYLE) === 0)
      return new NbdProtocolError('the server is not fixed newstyle')
    this.#noZeroes = (handshakeFlags & NBD_FLAG_NO_ZEROES) !== 0
    this.#send(encodeClientFlags(NBD_FLAG_C_FIXED_NEWSTYLE | (this.#noZeroes ? NBD_FLAG_C_NO_ZEROES : 0)))
    if (!this.#wishes.structuredReplies) return this.#choose()
    return this.#ask(NBD_OPT_STRUCTURED_REPLY, new Uint8Array(0))
  }

  /** Bytes of the reply to EXPORT_NAME. */
  get exportNameReplyBytes(): number {
    return EXPORT_NAME_REPLY_BYTES + (this.#noZeroes ? 0 : EXPORT_NAME_ZEROES_BYTES)
  }

  onReply(header: OptionReplyHeader, data: Uint8Array): ClientNegotiationStep {
    if (header.option !== this.#option) return new NbdProtocolError(`a reply to option ${header.option}, sent none`)
    const failed = header.type >= NBD_REP_FLAG_ERROR
    switch (header.option) {
      case NBD_OPT_STRUCTURED_REPLY:
        if (failed) return this.#choose()
        this.info.structuredReplies = true
        return this.#ask(
          NBD_OPT_SET_META_CONTEXT,
          encodeMetaContextRequest({ name: this.#wishes.exportName, queries: [NBD_CONTEXT_BASE_ALLOCATION] }),
        )
      case NBD_OPT_SET_META_CONTEXT:
        return this.#onMetaContextReply(header.type, data)
      default:
        return this.#onGoReply(header.type, data)
    }
  }

  #onMetaContextReply(type: number, data: Uint8Array): ClientNegotiationStep {
    if (type !== NBD_REP_META_CONTEXT) return this.#choose() // ACK, or an error: then without it
    const context = decodeMetaContext(data)
    if (context === undefined) return new NbdProtocolError('a metadata context without an id')
    if (context.name === NBD_CONTEXT_BASE_ALLOCATION) this.info.allocationContextId = context.id
    return 'go on'
  }

  #onGoReply(type: number, data: Uint8Array): ClientNegotiationStep {
    if (type === NBD_REP_ERR_UNSUP) return this.#askExportName()
    if (type >= NBD_REP_FLAG_ERROR) return new NbdRefusedError(type, decodeTextLeniently(data))
    if (type === NBD_REP_ACK) {
      return this.#hasExportInfo ? 'done' : new NbdProtocolError('GO was acknowledged without NBD_INFO_EXPORT')
    }
    if (type !== NBD_REP_INFO) return new NbdProtocolError(`reply type ${type} to GO`)
    const info = decodeInfo(data)
    if (info === undefined) return new NbdProtocolError('an information reply of the wrong length')
    if (info.type === 'export') {
      this.onExportNameReply(info.sizeBytes, info.transmissionFlags)
    } else if (info.type === 'block-size') {
      this.info.blockSize = info.blockSize
    } else if (info.type !== 'other') {
      this.info[info.type] = info.text
    }
    return 'go on'
  }

  onExportNameReply(sizeBytes: number, flags: number): void {
    this.#hasExportInfo = true
    this.info.sizeBytes = sizeBytes
    this.info.flags = flags
  }

  #choose(): ClientNegotiationStep {
    if (this.#wishes.oldExportName) return this.#askExportName()
    const types = [NBD_INFO_BLOCK_SIZE, NBD_INFO_NAME, NBD_INFO_DESCRIPTION]
    return this.#ask(NBD_OPT_GO, encodeInfoRequest({ name: this.#wishes.exportName, types }))
  }

  #askExportName(): ClientNegotiationStep {
    this.#send(encodeOption(NBD_OPT_EXPORT_NAME, encodeText(this.#wishes.exportName)))
    return 'export-name'
  }

  #ask(option: number, data: Uint8Array): ClientNegotiationStep {
    this.#option = option
    this.#send(encodeOption(option, data))
    return 'go on'
  }
}
