package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"mvm/internal/guestproto"
	"mvm/internal/guestproto/mux"
)

// forged are requests by which a guest of tenant acme reaches for tenant zeta.
func forged() map[string]guestproto.HostRequest {
	other := &guestproto.InstanceName{TenantID: "zeta", PoolID: "workers", InstanceID: "i-00000000"}
	return map[string]guestproto.HostRequest{
		"wake in zeta":        {WakeInstance: other},
		"status in zeta":      {QueryInstanceStatus: other},
		"any of zeta":         {Acquire: &guestproto.Acquire{TenantID: "zeta", PoolID: "workers"}},
		"a key of zeta":       {Acquire: &guestproto.Acquire{TenantID: "zeta", PoolID: "workers", Key: "ann"}},
		"an address of zeta":  {Acquire: &guestproto.Acquire{TenantID: "acme", PoolID: "workers", IP: netip.MustParseAddr("10.240.22.3")}},
		"a path for a tenant": {WakeInstance: &guestproto.InstanceName{TenantID: "../zeta", PoolID: "workers", InstanceID: "i-00000000"}},
	}
}

// forge answers nothing, and asks the host for what is another tenant's. The console
// shows the host's answers.
func forge(srv *mux.Server) {
	for {
		s, err := srv.Accept(context.Background())
		if err != nil {
			fmt.Println("accept:", err)
			os.Exit(1)
		}
		for name, req := range forged() {
			fmt.Printf("forged %s: %s\n", name, ask(s, req))
		}
		fmt.Println("all forged")
		<-s.Done()
	}
}

// channel waits for the guest channel's port and serves it in mvm-guest's place.
func channel() *mux.Server {
	var port *mux.Port
	for port == nil {
		paths, _ := filepath.Glob("/dev/vport*p1")
		if len(paths) > 0 {
			p, err := mux.OpenPort(paths[0])
			if err != nil {
				fmt.Println("open the channel:", err)
			}
			port = p
		}
		time.Sleep(10 * time.Millisecond)
	}
	return mux.NewServer(port)
}

// ask returns the host's answer in words that begin with "refused" or "granted".
func ask(s *mux.Session, req guestproto.HostRequest) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := s.Open(ctx, guestproto.HostPort)
	if err != nil {
		return "no stream: " + err.Error()
	}
	defer conn.Close()
	r, err := guestproto.HostCall(ctx, conn, req)
	switch {
	case err != nil:
		return "refused: " + err.Error()
	case r.WakeResult != nil && !r.WakeResult.Success, r.AcquireResult != nil && !r.AcquireResult.Success:
		return "refused"
	}
	return fmt.Sprintf("granted: %+v", r)
}
