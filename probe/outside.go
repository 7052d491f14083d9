package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// outside is how services that are not endpoints are asked: certificates are verified, the environment's proxy is
// used, a redirect is an answer (a POST that follows one may become a GET), and no connection is kept, since a POST
// on one that the other side has closed meanwhile would fail for nothing.
var outside = &http.Client{
	Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DisableKeepAlives:      true,
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: maxHeader,
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// maxAnswer bounds what is read of an answer from outside.
const maxAnswer = 1 << 20

// post sends a body and gives back status and body of the answer, cut at maxAnswer. Errors name no more of the
// address than scheme, host and path: a password or a token may be in the rest.
func post(ctx context.Context, address, contentType string, body io.Reader) (*http.Response, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, body)
	if err != nil {
		return nil, nil, errors.New("the URL does not parse") // the error would quote it
	}
	if (request.URL.Scheme != "http" && request.URL.Scheme != "https") || request.URL.Host == "" {
		return nil, nil, fmt.Errorf("%s is not an http or https URL", publicly(request.URL))
	}
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("User-Agent", "pointsman")
	answer, err := outside.Do(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, nil, fmt.Errorf("%s: %w", publicly(request.URL), words(err, "an answer"))
	}
	defer func() { _ = answer.Body.Close() }()
	got, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", publicly(request.URL), words(err, "the end of the answer"))
	}
	return answer, got, nil
}

func publicly(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
