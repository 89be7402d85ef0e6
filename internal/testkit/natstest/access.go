package natstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// Seed is a key pair, with its seed in a file.
type Seed struct {
	Public, File string

	pair nkeys.KeyPair
}

// NewSeed makes one: of a user with nkeys.CreateUser.
func NewSeed(t testing.TB, create func() (nkeys.KeyPair, error)) Seed {
	t.Helper()
	pair, err := create()
	public, publicErr := pair.PublicKey()
	text, seedErr := pair.Seed()
	if err := errors.Join(err, publicErr, seedErr); err != nil {
		t.Fatal(err)
	}
	return Seed{public, writeFile(t, string(text)), pair}
}

func writeFile(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Operator is a NATS operator with a system account and one with JetStream.
type Operator struct {
	// Settings are the lines of the configuration of a server that it runs.
	Settings string

	account Seed
}

// NewOperator makes one, with keys of its own.
func NewOperator(t testing.TB) Operator {
	t.Helper()
	op, system := NewSeed(t, nkeys.CreateOperator), NewSeed(t, nkeys.CreateAccount)
	o := Operator{account: NewSeed(t, nkeys.CreateAccount)}
	claims := jwt.NewOperatorClaims(op.Public)
	claims.SystemAccount = system.Public
	account := jwt.NewAccountClaims(o.account.Public)
	account.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	o.Settings = fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: { %s: %s, %s: %s }",
		encoded(t, claims, op), system.Public, system.Public, encoded(t, jwt.NewAccountClaims(system.Public), op),
		o.account.Public, encoded(t, account, op))
	return o
}

// Creds makes a user of the account with JetStream, and gives the file of the credentials.
func (o Operator) Creds(t testing.TB) string {
	t.Helper()
	user := NewSeed(t, nkeys.CreateUser)
	text, err := user.pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file, err := jwt.FormatUserConfig(encoded(t, jwt.NewUserClaims(user.Public), o.account), text)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, string(file))
}

func encoded(t testing.TB, claims jwt.Claims, by Seed) string {
	t.Helper()
	text, err := claims.Encode(by.pair)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Authority issues certificates.
type Authority struct {
	// File has its own certificate.
	File string

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes one, unlike any other.
func NewAuthority(t testing.TB) Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority " + rand.Text()},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return Authority{writePEM(t, "CERTIFICATE", der), cert, key}
}

// Issue gives the files of a certificate for this machine, and of its key.
func (a Authority) Issue(t testing.TB, name string) (cert, key string) {
	t.Helper()
	pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &pair.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(pair)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, "CERTIFICATE", der), writePEM(t, "PRIVATE KEY", private)
}

func writePEM(t testing.TB, kind string, der []byte) string {
	t.Helper()
	return writeFile(t, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}
