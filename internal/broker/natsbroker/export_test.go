package natsbroker

// TrustChains forgets that others publish, so that the next round is tried as a window.
func (b *Broker) TrustChains() { b.chain.contended = 0 }

// ChainBroke says that the last window's chain broke.
func (b *Broker) ChainBroke() bool { return b.chain.contended > 0 }
