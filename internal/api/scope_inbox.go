package api

import (
	"context"

	"mvm"
)

// Messages implements Service.
func (s *scope) Messages(ctx context.Context, tenant string) ([]mvm.Message, error) {
	if err := s.own(tenant); err != nil {
		return nil, err
	}
	return s.svc.Messages(ctx, tenant)
}

// DoctorTenant implements Service.
func (s *scope) DoctorTenant(ctx context.Context, tenant string) ([]mvm.Finding, error) {
	if err := s.own(tenant); err != nil {
		return nil, err
	}
	return s.svc.DoctorTenant(ctx, tenant)
}

// Message implements Service.
func (s *scope) Message(ctx context.Context, tenant, pool string, number int64) (mvm.Message, error) {
	if err := s.own(tenant); err != nil {
		return mvm.Message{}, err
	}
	return s.svc.Message(ctx, tenant, pool, number)
}

// RetryMessage implements Service.
func (s *scope) RetryMessage(ctx context.Context, tenant, pool string, number int64) error {
	if err := s.own(tenant); err != nil {
		return err
	}
	return s.svc.RetryMessage(ctx, tenant, pool, number)
}

// DropMessage implements Service.
func (s *scope) DropMessage(ctx context.Context, tenant, pool string, number int64) error {
	if err := s.own(tenant); err != nil {
		return err
	}
	return s.svc.DropMessage(ctx, tenant, pool, number)
}
