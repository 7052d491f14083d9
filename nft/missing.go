package nft

// Missing stands for the table on a kernel without nftables: all that it says is [ErrUnsupported].
type Missing struct{}

// Generation is [Conn.Generation].
func (Missing) Generation() (uint32, error) { return 0, ErrUnsupported }

// Read is [Conn.Read].
func (Missing) Read() (Ruleset, State, error) { return Ruleset{}, State{}, ErrUnsupported }

// Commit is [Conn.Commit].
func (Missing) Commit([]Op) error { return ErrUnsupported }

// Delete is [Conn.Delete]: there is nothing to delete.
func (Missing) Delete() error { return nil }
