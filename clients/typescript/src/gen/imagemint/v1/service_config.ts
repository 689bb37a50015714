// @generated from imagemint/v1/service_config.json

/** Retries and load balancing of every call, as gRPC defines them. */
export const serviceConfig = {
  "loadBalancingConfig": [{ "round_robin": {} }],
  "healthCheckConfig": { "serviceName": "imagemint.v1.ModelService" },
  "methodConfig": [
    {
      "name": [{ "service": "imagemint.v1.GenerationService" }, { "service": "imagemint.v1.TranslationService" }, { "service": "imagemint.v1.ModelService" }],
      "waitForReady": false,
      "retryPolicy": {
        "maxAttempts": 4,
        "initialBackoff": "0.05s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"]
      }
    }
  ],
  "retryThrottling": { "maxTokens": 1000, "tokenRatio": 1 }
};
