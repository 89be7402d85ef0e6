package outbox

// Lane is the lane of a key among n lanes: murmur2 of its bytes, as Kafka's Java partitioner has it, so that a
// message of a key is in the same slice whatever carries it.
func Lane(key string, n int) int {
	return int(murmur2(key)&0x7fffffff) % n
}

// murmur2 is the 32-bit MurmurHash2 with the seed that Kafka's clients use.
func murmur2(key string) uint32 {
	const (
		m    = 0x5bd1e995
		seed = 0x9747b28c
	)
	h := uint32(seed) ^ uint32(len(key)) //nolint:gosec // a key is at most MaxKey long
	i := 0
	for ; i+4 <= len(key); i += 4 {
		k := uint32(key[i]) | uint32(key[i+1])<<8 | uint32(key[i+2])<<16 | uint32(key[i+3])<<24
		k *= m
		k ^= k >> 24
		k *= m
		h = h*m ^ k
	}
	switch len(key) - i {
	case 3:
		h ^= uint32(key[i+2]) << 16
		fallthrough
	case 2:
		h ^= uint32(key[i+1]) << 8
		fallthrough
	case 1:
		h ^= uint32(key[i])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
