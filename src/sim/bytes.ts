// Comparisons of large buffers, four bytes at a time where memory allows it: the checkers look at every block after every step.

/** Whether the first `lengthBytes` bytes of both are the same. */
export function sameBytes(a: Uint8Array, b: Uint8Array, lengthBytes: number): boolean {
  if (a === b) return true
  let at = 0
  if (isAligned(a) && isAligned(b)) {
    const words = lengthBytes >> 2
    const inA = new Int32Array(a.buffer, a.byteOffset, words)
    const inB = new Int32Array(b.buffer, b.byteOffset, words)
    for (let i = 0; i < words; i++) if (inA[i] !== inB[i]) return false
    at = words << 2
  }
  for (; at < lengthBytes; at++) if (a[at] !== b[at]) return false
  return true
}

export function isAllZero(bytes: Uint8Array): boolean {
  if (bytes.length > 0 && bytes[0] !== 0) return false
  let at = 0
  if (isAligned(bytes)) {
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2)
    for (let i = 0; i < words.length; i++) if (words[i] !== 0) return false
    at = words.length << 2
  }
  for (; at < bytes.length; at++) if (bytes[at] !== 0) return false
  return true
}

const isAligned = (bytes: Uint8Array): boolean => (bytes.byteOffset & 3) === 0
