package envoy

// RenderOn is Render for a kernel with or without IPv6.
func RenderOn(a Addresses, ipv6 bool) ([]byte, error) {
	return render(a, func() bool { return ipv6 }, nil)
}
