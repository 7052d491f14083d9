package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
)

// Post calls a hook: a POST with the value as JSON. It succeeds on a status from 200 to 299; another one is an error
// that shows it and the first bytes of the answer. It is tried once, for as long as the context allows: give it a
// deadline. When the answer did not come, the hook may have been called all the same.
func Post(ctx context.Context, address string, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("hook: the body: %w", err)
	}
	answer, got, err := post(ctx, address, "application/json", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("hook: %w", err)
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("hook: %s: %w", publicly(answer.Request.URL),
			&Error{Seen: fmt.Sprintf("HTTP status %d, want 2xx", answer.StatusCode), Detail: "body " + begins(got)})
	}
	return nil
}
