//go:build mesh

package mesh

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

// installed returns what an installation of Envoy Gateway adds: the class, the certificates and their CA. They differ in each run
// and are not part of a translation.
func installed(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"api.example"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret := fmt.Sprintf("{tls.crt: %s, tls.key: %s}", base64.StdEncoding.EncodeToString(certificate),
		base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return strings.Join([]string{
		"apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: eg}\n" +
			"spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}",
		"apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: api-tls, namespace: phantom}\ndata: " + secret,
		"apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: envoy-tls, namespace: phantom}\ndata: " + secret,
		fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: phantom-ca, namespace: phantom}\ndata: {ca.crt: %q}", certificate),
	}, "\n---\n")
}
