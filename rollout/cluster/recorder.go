package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

const (
	reportingController  = "pointsman"
	maxReportingInstance = 128 // bytes, as the API server has it
	maxEventName         = 253
	// maxQueuedEvents are kept while the API server is slow. What comes then is dropped: all of it is in the status.
	maxQueuedEvents = 1000
	eventTries      = 10
)

// recorder writes Events one after the other, each as one of its own: the second "Switched" of a VirtualServer has
// another note than the first, and to count it as a repetition would lose where to.
type recorder struct {
	clients  *clients
	log      logrus.FieldLogger
	instance string
	queue    chan *eventsv1.Event
}

func newRecorder(c *clients, o Options) *recorder {
	return &recorder{
		clients: c, log: o.Log, instance: clipBytes(reportingController+"-"+o.NodeName, maxReportingInstance),
		queue: make(chan *eventsv1.Event, maxQueuedEvents),
	}
}

// tell has an Event written soon. It never blocks.
func (r *recorder) tell(of *v1alpha1.VirtualServer, e event) {
	select {
	case r.queue <- r.event(of, e, time.Now()):
	default:
		r.log.WithField("reason", e.reason).Debug("an Event is dropped: too many wait to be written")
	}
}

func (r *recorder) event(of *v1alpha1.VirtualServer, e event, now time.Time) *eventsv1.Event {
	suffix := fmt.Sprintf(".%x", now.UnixNano())
	name := strings.TrimRight(of.Name[:min(len(of.Name), maxEventName-len(suffix))], "-.")
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: of.Namespace, Name: name + suffix},
		EventTime:  metav1.NewMicroTime(now),
		Type:       e.kind, Reason: e.reason, Action: e.action, Note: e.note,
		ReportingController: reportingController, ReportingInstance: r.instance,
		Regarding: corev1.ObjectReference{
			APIVersion: v1alpha1.GroupVersion.String(), Kind: "VirtualServer", Namespace: of.Namespace, Name: of.Name,
			UID: of.UID, ResourceVersion: of.ResourceVersion,
		},
	}
}

// run writes what is told until ctx ends.
func (r *recorder) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-r.queue:
			if err := r.write(ctx, e); err != nil && ctx.Err() == nil {
				r.log.WithError(err).WithField("note", e.Note).Warn("an Event could not be written; the status says the same")
			}
		}
	}
}

// write tries until the API server has answered.
func (r *recorder) write(ctx context.Context, e *eventsv1.Event) (err error) {
	retry := backoff
	for range eventTries {
		call, cancel := context.WithTimeout(ctx, requestTimeout)
		_, err = r.clients.eventsIn(e.Namespace).Create(call, e, metav1.CreateOptions{})
		cancel()
		var answer apierrors.APIStatus
		switch {
		case err == nil, apierrors.IsAlreadyExists(err): // an earlier try, of which the answer was lost
			return nil
		case errors.As(err, &answer) && !apierrors.IsTooManyRequests(err) && !apierrors.IsInternalError(err) &&
			!apierrors.IsServiceUnavailable(err) && !apierrors.IsServerTimeout(err) && !apierrors.IsTimeout(err):
			return err // and will be again
		}
		if pause(ctx, retry.Step()); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return err
}
