package main

import (
	"encoding/binary"
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// message returns the check that Envoy 1.40 with envoy.yaml sends for a request of an API client, behind gRPC's prefix: not
// compressed, and the length.
func message(key credential.Secret) ([]byte, error) {
	b, err := proto.Marshal(&authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:      peer(50088),
		Destination: peer(10000),
		Request: &authv3.AttributeContext_Request{
			Time: timestamppb.New(time.Now()),
			Http: &authv3.AttributeContext_HttpRequest{
				Id: "4393980290386485234", Method: "GET", Path: "/api/v1/me", Host: "api.example", Scheme: "http", Protocol: "HTTP/1.1",
				HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
					{Key: "authorization", RawValue: []byte("Bearer " + key.Reveal())},
					{Key: "content-type", RawValue: []byte("application/json")},
				}},
			},
		},
		ContextExtensions:    map[string]string{"principal": "any"},
		MetadataContext:      &corev3.Metadata{},
		RouteMetadataContext: &corev3.Metadata{},
	}})
	if err != nil {
		return nil, fmt.Errorf("encode check: %w", err)
	}
	const prefix = 5
	data := make([]byte, prefix, prefix+len(b))
	binary.BigEndian.PutUint32(data[1:], uint32(len(b)))
	return append(data, b...), nil
}

func peer(port uint32) *authv3.AttributeContext_Peer {
	return &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}}
}
